"""Signals of a caption's text: cases written by hand, and what holds for any text."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.captions import caption_signals
from filters.errors import InputError, SchemaError
from pipelines.store.schema import SIGNALS
from tests.filters.caption_tables import captions_in_chunks, texts
from tests.filters.tables import is_extended

ADDED = {
    name: SIGNALS.arrow.field(name).type
    for name in ("caption_words", "caption_chars", "caption_repetition", "caption_boilerplate")
}


def signal(name: str, caption: str | None) -> object:
    return caption_signals(pa.table({"caption": pa.array([caption], pa.string())}))[name][0].as_py()


@pytest.mark.parametrize(
    ("caption", "words", "chars"),
    [
        ("a photo of a cat", 5, 16),
        ("", 0, 0),
        ("   ", 0, 3),
        ("  two  words ", 2, 13),
        ("one\ntwo\tthree\r\nfour", 4, 19),
        ("no-break\u00a0space", 2, 14),
        ("東京\u3000夜景", 2, 5),
        ("日本語の文", 1, 5),
        ("caf\u00e9", 1, 4),
        ("cafe\u0301", 1, 5),
        ("zero\u200bwidth", 1, 10),
        ("file\x1cseparator", 2, 14),
        ("zero\x00character", 1, 14),
        ("👩‍👧 !", 2, 5),
        (None, None, None),
    ],
)
def test_words_and_characters(caption: str | None, words: int | None, chars: int | None) -> None:
    assert (signal("caption_words", caption), signal("caption_chars", caption)) == (words, chars)


@pytest.mark.parametrize(
    ("caption", "is_kept"),
    [
        ("a b c", False),  # 3 words, but 5 characters
        ("a b cd", True),
        ("hello world", False),  # 2 words
        ("hello , world", True),  # a sign that stands alone is a word
        ("a b c ", True),  # white space counts among the characters
        ("", False),
    ],
)
def test_counts_serve_datacomps_basic_rule(caption: str, is_kept: bool) -> None:
    words, chars = signal("caption_words", caption), signal("caption_chars", caption)
    assert isinstance(words, int)
    assert isinstance(chars, int)
    assert (words > 2 and chars > 5) is is_kept


@pytest.mark.parametrize(
    ("caption", "repetition"),
    [
        ("", 0.0),
        (" \n", 0.0),
        ("cat", 0.0),
        ("cat cat", 1 / 2),
        ("Cat, cat; CAT!", 2 / 3),
        ("“cat” (cat)", 1 / 2),
        ("STRASSE straße", 1 / 2),
        ("قطة، قطة؟", 1 / 2),
        ("שלום\u200f שלום", 1 / 2),
        ("one two three one", 1 / 4),
        ("a - b - c", 0.0),
        ("- - -", 0.0),
        ("red-hot red hot", 0.0),
        ("it's its", 0.0),
        ("sale sale sale sale shoes", 3 / 5),
        ("猫猫猫", 0.0),
        (None, None),
    ],
)
def test_repetition(caption: str | None, repetition: float | None) -> None:
    assert signal("caption_repetition", caption) == (None if repetition is None else pytest.approx(repetition))


BOILERPLATE = [
    "IMG_1234",
    "IMG_1234.JPG",
    "img-20190102-wa0003.jpg",
    "DSC 0042",
    "dsc01234.jpg (2)",
    "P1010023",
    "Photo 3 of 12",
    "image001.png",
    "Screen Shot 2019-01-02 at 10.00.00 AM",
    "WhatsApp Image 2021-05-03 at 10.00.00",
    "sunset_over-lake.webp",
    "File:Sunset over a lake.jpg",
    "20190102_123456",
    "12/03/2014",
    "#42",
    "f3a9c2d1e4b5a697",
    "123e4567-e89b-12d3-a456-426614174000",
    "https://example.org/a/b.html?c=d",
    "www.example.org",
    "shop.example.com/sale",
    "someone@example.org",
    "image",
    "Photo.",
    "[image]",
    "stock photo",
    "Royalty-free stock photos",
    "free vector clipart",
    "Featured Image",
    "Profile   picture",
    "Click to enlarge picture",
    "click here to view larger image",
    "Click on image to zoom",
    "View full size",
    "embedded image permalink",
    "No image available",
    "Photo not found",
    "image unavailable",
    "Image coming soon",
    "untitled",
    "n/a",
    "null",
    "Advertisement",
    "Image via",
]
DESCRIPTIONS = [
    "",
    "  ",
    "...",
    "❤",
    "cat",
    "a photo of a cat",
    "stock photo of a red fox",
    "Click beetle on a leaf",
    "Clicking a picture of the sunset",
    "My holiday.jpg pictures from Rome",
    "sunset over a lake.jpg",
    "Photo 3: the harbour",
    "image 3 猫",
    "IMG 1234 grandmother in the garden",
    "3 cats",
    "2014年",
    "1950s",
    "Boeing 747",
    "deface effaced",
    "See https://example.org for a recipe",
    "Dr. Smith",
    "logo",
    "Press photo",
    "blank canvas",
    "A viewer",
    "View of the harbour",
    "Open air",
    "No dogs",
    "Copyright law book",
]


@pytest.mark.parametrize(
    ("caption", "expected"), [*((c, True) for c in BOILERPLATE), *((c, False) for c in DESCRIPTIONS), (None, None)]
)
def test_boilerplate(caption: str | None, expected: bool | None) -> None:
    assert signal("caption_boilerplate", caption) is expected


@settings(deadline=None, max_examples=150, derandomize=True)
@given(texts(), st.integers(1, 4))
def test_it_only_adds_columns_that_depend_on_the_row_alone(captions: list[str | None], chunk: int) -> None:
    table = captions_in_chunks(captions, chunk)
    found = caption_signals(table)
    assert is_extended(found, table, ADDED)
    for caption, row in zip(captions, found.to_pylist(), strict=True):
        assert row == {"uid": row["uid"], **caption_signals(pa.table({"caption": [caption]})).to_pylist()[0]}
        if caption is not None:
            assert (row["caption_words"], row["caption_chars"]) == (len(caption.split()), len(caption))
            assert 0 <= row["caption_repetition"] < 1


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_other_kinds_of_strings_are_strings(kind: pa.DataType) -> None:
    table = pa.table({"caption": pa.array(["a cat", None, "a cat"]).cast(kind)})
    assert caption_signals(table)["caption_words"].to_pylist() == [2, None, 2]
    assert caption_signals(pa.table({"caption": pa.nulls(2)}))["caption_words"].to_pylist() == [None, None]


def test_what_is_no_caption_is_one_clear_line() -> None:
    with pytest.raises(SchemaError, match="column `caption` is needed"):
        caption_signals(pa.table({"text": ["a cat"]}))
    with pytest.raises(SchemaError, match="has type int64"):
        caption_signals(pa.table({"caption": [1]}))
    with pytest.raises(SchemaError, match="already has"):
        caption_signals(caption_signals(pa.table({"caption": ["a cat"]})))
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(InputError, match="UTF-8"):
        caption_signals(pa.table({"caption": broken}))
