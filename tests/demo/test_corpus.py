"""The committed demo corpus is what its reader says it is, and its builder still makes it."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from demo import build_corpus
from demo.corpus import (
    CORPUS_DIR,
    EVAL_STYLES,
    FAMILY,
    ROLE,
    STYLES,
    TRAIN_STYLES,
    load_concepts,
    load_style,
    natural_duplicates,
)
from demo.corpus_duplicates import find_duplicates, read_confirmed
from demo.corpus_match import Concept, slugify
from demo.corpus_notices import style_notice
from demo.corpus_render import SIZE, decode, encode, icon_svg, render
from filters.errors import InputError

COLUMNS = ["concept", "style", "family", "role", "image", "license", "attribution"]


@cache
def tables() -> dict[str, pa.Table]:
    return {style: load_style(style) for style in STYLES}


def test_styles_have_the_parts_of_the_demo() -> None:
    assert TRAIN_STYLES == ("noto", "twemoji", "openmoji", "fluent-emoji-flat", "fluent-emoji", "emojione")
    assert [ROLE[style] for style in EVAL_STYLES] == ["reference", "near", "rendition", "silhouette", "line"]
    assert FAMILY["noto-v1"] == FAMILY["noto"] and FAMILY["emojione-v1"] == FAMILY["emojione-monotone"]


def test_concepts_are_sorted_unique_and_named_in_all_languages() -> None:
    rows = load_concepts().to_pylist()
    slugs = [row["concept"] for row in rows]
    assert len(rows) >= 1000
    assert slugs == sorted(set(slugs))
    assert len({row["name"] for row in rows}) == len(rows)
    assert len({row["hexcode"] for row in rows}) == len(rows)
    assert all(slugify(row["name"]) == row["concept"] and row["name"] == row["name"].lower() for row in rows)
    languages = {"de", "es", "fr", "hi", "ja", "pt", "ru", "zh"}
    assert all(dict(row["names"]).keys() == languages and all(dict(row["names"]).values()) for row in rows)


def test_number_of_styles_is_what_the_tables_hold() -> None:
    drawn = Counter(concept for table in tables().values() for concept in table["concept"].to_pylist())
    rows = load_concepts().to_pylist()
    assert {row["concept"]: row["styles"] for row in rows} == dict(drawn)
    assert min(drawn.values()) >= 9


@pytest.mark.parametrize("style", STYLES)
def test_style_table_has_one_whole_picture_a_concept(style: str) -> None:
    table = tables()[style]
    concepts = table["concept"].to_pylist()
    assert table.column_names == COLUMNS
    assert concepts == sorted(set(concepts))
    assert len(concepts) >= {"emojione-v1": 880, "fxemoji": 225}.get(style, 1000)
    about = STYLES[style]
    for name, value in (("style", style), ("family", about.family), ("role", about.role), ("license", about.license)):
        assert set(table[name].to_pylist()) == {value}
    assert all(about.license in text and about.source_url in text for text in set(table["attribution"].to_pylist()))
    for image in table["image"].to_pylist():
        with Image.open(io.BytesIO(image)) as picture:
            assert (picture.format, picture.size, picture.mode) == ("WEBP", (SIZE, SIZE), "RGB")
            assert np.asarray(picture).min() < 240, "a picture is blank"


def test_pictures_stand_on_white() -> None:
    # Some pictures fill their square to the corners, but most leave them white in every style.
    for style, table in tables().items():
        corners = [decode(image).getpixel((0, 0)) for image in table["image"].to_pylist()[::7]]
        white = sum(isinstance(corner, tuple) and min(corner) >= 250 for corner in corners)
        assert white > 0.75 * len(corners), style


def test_everyday_list_follows_its_rule() -> None:
    rows = load_concepts().to_pylist()
    chosen = [row for row in rows if row["everyday"]]
    assert len(chosen) == 100
    assert Counter(row["group"] for row in chosen) == dict.fromkeys(build_corpus.EVERYDAY_GROUPS, 20)
    assert all(len(row["name"].split()) <= 2 and row["styles"] >= 10 for row in chosen)


def test_everyday_takes_subgroups_in_turn() -> None:
    def concept(name: str, subgroup: str, order: int) -> Concept:
        icons = dict.fromkeys(STYLES, name)
        return Concept(name, name, "", name, "objects", subgroup, order, [], {}, icons)

    concepts = [concept(f"a{'x' * i}", "tools", i) for i in range(30)]
    concepts += [concept("hat", "clothes", 90), concept("shoe", "clothes", 91)]
    chosen = build_corpus.everyday(concepts)
    assert {"hat", "shoe"} <= chosen
    assert len(chosen) == 20


def test_corpus_is_small_enough_and_has_its_notices() -> None:
    size = sum(path.stat().st_size for path in CORPUS_DIR.rglob("*") if path.is_file())
    assert size <= 25_000_000
    assert not (CORPUS_DIR / "__init__.py").exists()
    for style in STYLES.values():
        assert (CORPUS_DIR / f"NOTICE-{style.name}.md").read_text(encoding="utf-8") == style_notice(style)
    assert (CORPUS_DIR / "NOTICE-names.md").is_file()


def test_recorded_duplicates_are_what_the_builder_finds() -> None:
    found = find_duplicates(tables(), build_corpus.CONFIRMED_NEAR)
    assert found.equals(natural_duplicates())


def test_equal_pixels_are_really_equal_and_complete() -> None:
    pixels = {
        (style, concept): hashlib.blake2b(np.asarray(decode(image)).tobytes()).digest()
        for style, table in tables().items()
        for concept, image in zip(table["concept"].to_pylist(), table["image"].to_pylist(), strict=True)
    }
    pairs = natural_duplicates().to_pylist()
    for pair in pairs:
        same = pixels[pair["style_a"], pair["concept_a"]] == pixels[pair["style_b"], pair["concept_b"]]
        assert same == (pair["kind"] == "equal_pixels")
    expected = sum(n * (n - 1) // 2 for n in Counter(pixels.values()).values())
    assert sum(pair["kind"] == "equal_pixels" for pair in pairs) == expected > 0


def test_confirmed_pairs_are_written_once_in_order() -> None:
    pairs = [pair for pair, _ in read_confirmed(build_corpus.CONFIRMED_NEAR, tables())]
    assert len(set(pairs)) == len(pairs)


def test_a_confirmed_pair_without_its_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "near.csv"
    path.write_text("# how\nstyle_a,concept_a,style_b,concept_b,judged\nnoto,ship,noto,no-such,same drawing\n")
    with pytest.raises(InputError, match="no picture noto/no-such"):
        read_confirmed(path, tables())


def test_corrections_name_known_styles_and_each_icon_once() -> None:
    with (CORPUS_DIR / "icon_corrections.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["style"] for row in rows} <= set(STYLES)
    assert len({(row["style"], row["icon"]) for row in rows}) == len(rows)
    for row in rows:
        if row["concept"]:
            assert row["concept"] in tables()[row["style"]]["concept"].to_pylist()


def test_reader_names_what_is_missing() -> None:
    with pytest.raises(InputError, match="no style 'notto'"):
        load_style("notto")


def test_slugs() -> None:
    assert slugify("Dog Face") == "dog-face"
    assert slugify("UP! button") == "up-exclamation-button"
    assert slugify("keycap: #") == "keycap-pound"
    assert slugify("man’s shoe") == "mans-shoe"


def test_rendering_is_deterministic_on_white_and_mirrors() -> None:
    pytest.importorskip("resvg_py", reason="only builders of the corpus need resvg-py")
    icons = {
        "width": 64,
        "height": 64,
        "icons": {
            "bar": {"body": '<path fill="#f00" d="M0 0h16v64H0z"/>'},
            "wide": {"body": '<path fill="#00f" d="M0 0h64v32H0z"/>', "height": 32},
        },
        "aliases": {"bar-right": {"parent": "bar", "hFlip": True}, "same": {"parent": "bar"}},
    }
    for name in ("bar", "wide"):
        first, second = (encode(render(icon_svg(icons, name)), lossless=True) for _ in range(2))
        assert first == second
    bar, right, wide = (render(icon_svg(icons, name)) for name in ("same", "bar-right", "wide"))
    assert (bar.getpixel((0, 0)), bar.getpixel((127, 0))) == ((255, 0, 0), (255, 255, 255))
    assert right.tobytes() == bar.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()
    assert (wide.getpixel((64, 8)), wide.getpixel((64, 64))) == ((255, 255, 255), (0, 0, 255))
    assert decode(encode(bar, lossless=True)).tobytes() == bar.tobytes()
