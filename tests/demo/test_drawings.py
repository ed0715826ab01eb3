"""The committed drawings are what their reader says they are, and their builder keeps its rules."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import build_drawings
from demo.build_drawings import SIZE, build, notice, picture_of, read_source
from demo.drawings import load_drawings, same_drawings
from filters.errors import InputError

SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200" viewBox="0 0 300 200">
<metadata><rdf:RDF xmlns:rdf="r" xmlns:cc="c" xmlns:dc="d"><cc:Work><dc:title>{title}</dc:title>
<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="{licence}"/></cc:Work></rdf:RDF></metadata>
{body}</svg>"""
FREE = "http://web.resource.org/cc/PublicDomain"
BAR = '<path fill="#f00" d="M30 40h200v120H30z"/>'


def svg(title: str = "A bar", author: str = "Ann O&apos;Other", licence: str = FREE, body: str = BAR) -> str:
    return SVG.format(title=title, author=author, licence=licence, body=body)


def test_drawings_are_sorted_credited_and_whole() -> None:
    rows = load_drawings().to_pylist()
    names = [row["drawing"] for row in rows]
    assert 400 <= len(rows) <= 600
    assert names == sorted(set(names))
    assert all(row["title"] and row["author"] and row["license"].startswith("Public domain") for row in rows)
    pixels = set()
    for row in rows:
        with Image.open(io.BytesIO(row["image"])) as picture:
            assert (picture.format, picture.mode) == ("WEBP", "RGB")
            assert 240 <= max(picture.size) <= SIZE
            assert np.asarray(picture).min() < 240, "a picture is blank"
            pixels.add(picture.tobytes())
    assert len(pixels) == len(rows)


def test_notice_names_every_drawing_and_nothing_left_out_is_there() -> None:
    table = load_drawings()
    text = (Path(build_drawings.LEFT_OUT).parent / "NOTICE-drawings.md").read_text(encoding="utf-8")
    assert text == notice(table)
    with build_drawings.LEFT_OUT.open(encoding="utf-8", newline="") as file:
        left_out = {row["drawing"] for row in csv.DictReader(file)}
    assert left_out and not left_out & set(table["drawing"].to_pylist())


def test_same_drawings_are_known_and_of_two() -> None:
    known = set(load_drawings()["drawing"].to_pylist())
    pairs = same_drawings()
    assert len(pairs) > 50
    assert all(len(pair) == 2 and pair <= known for pair in pairs)
    assert set(pairs.values()) == {"same drawing", "recoloured"}


@pytest.mark.parametrize(
    ("folder", "text", "is_used"),
    [
        ("tools", svg(), True),
        ("tools/weapons", svg(), False),
        ("logos", svg(), False),
        ("tools", svg(licence="http://creativecommons.org/licenses/GPL/2.0/"), False),
        ("tools", svg(author=""), False),
        ("tools", svg(body=BAR + "<text>hello</text>"), False),
        ("tools", svg(body='<image href="x.png"/>'), False),
    ],
)
def test_only_free_signed_plain_files_of_everyday_things(
    tmp_path: Path, folder: str, text: str, is_used: bool
) -> None:
    path = tmp_path / folder / "bar.svg"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = read_source(path, tmp_path)
    assert (found is not None) == is_used
    if found is not None:
        assert (found.name, found.title, found.author) == ("tools/bar", "A bar", "Ann O'Other")


def test_pictures_are_cut_to_what_is_drawn_and_repeats_are_dropped(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="only builders of the corpus need resvg-py")
    picture = picture_of(svg())
    assert picture is not None and picture.size == (SIZE, 162)
    assert (picture.getpixel((128, 80)), picture.getpixel((2, 80))) == ((255, 0, 0), (255, 255, 255))
    assert picture_of(svg(body="")) is None
    assert picture_of(svg(body='<path d="M1 1h9v9H1z"/>')) is None, "too small to be drawn at this size"
    assert picture_of(svg(body='<path d="M0 0h300v9H0z"/>')) is None, "too narrow"
    assert picture_of("no svg") is None
    for name, text in (("a", svg()), ("b", svg()), ("c", svg(body='<path d="M30 40h200v120H30z"/>'))):
        path = tmp_path / "tools" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    table = build(tmp_path)
    assert table["drawing"].to_pylist() == ["tools/a", "tools/c"]
    with pytest.raises(InputError, match="no SVG file of openclipart here"):
        build(tmp_path / "nowhere")
