"""Captions in each source's idiom, made from a concept's name and keywords.

Every true caption contains the English name of every concept in the picture (any case; in RedCaps folded to ASCII, as
upstream does). The wording is this project's own; only the manner follows the sources.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

import numpy as np

from demo.web_phrases import (
    FIRST_PERSON,
    FOREIGN,
    PHRASES,
    YFCC_PLAIN,
    YFCC_TITLES,
    YFCC_WITH_NAME,
    YFCC_WITHOUT_NAME,
)


@dataclass(frozen=True, slots=True)
class Words:
    """What a caption may speak of: names of the concepts in the picture, main first, and the main one's keywords."""

    names: Sequence[str]
    keywords: Sequence[str]


@dataclass(frozen=True, slots=True)
class Caption:
    """Caption fields as the dump holds them, and the plain text a reader should get from them (None: no caption)."""

    fields: dict[str, str | None]
    text: str | None


def write_caption(source: str, words: Words, rng: np.random.Generator) -> Caption:
    """An English caption for `words` in the idiom of `source`."""
    if source == "yfcc":
        return _yfcc(
            _slots(words, rng), [k for name in words.names for k in name.split()] + list(words.keywords), rng
        )
    text = _fill(_one(PHRASES[source], rng), _slots(words, rng))
    if source == "redcaps" and rng.random() < 0.4:
        text = f"{text} {_one(FIRST_PERSON, rng)}"
    return wrap_caption(source, text, rng)


def foreign_caption(source: str, name: str, language: str, rng: np.random.Generator) -> Caption:
    """A caption in `language` around the concept's name in that language."""
    return wrap_caption(source, _fill(_one(FOREIGN[language], rng), {"name": name, "Name": _capital(name)}), rng)


def empty_caption(source: str, rng: np.random.Generator) -> Caption:
    """A record without a caption: null where the format can hold one, else nothing or blanks."""
    blank = _one(("", "", "  "), rng)
    value = None if source in ("laion", "redcaps") and rng.random() < 0.5 else blank
    fields = {**wrap_caption(source, "", rng).fields}
    fields.update({key: value for key in ("TEXT", "caption", "caption_reference_description") if key in fields})
    return Caption(fields, None)


def unbalanced_caption(source: str, words: Words, rng: np.random.Generator) -> Caption:
    """An English caption with one double quote that is never closed; it opens the text, where parsers care."""
    text = write_caption(source, words, rng).text
    return wrap_caption(source, f'"{text}', rng)


def wrap_caption(source: str, text: str, rng: np.random.Generator) -> Caption:
    """`text` as the one caption of a record, in the fields of the source's dump."""
    text = " ".join(text.split())
    if source == "yfcc":
        return _yfcc_fields(text, "", [])
    if source == "laion":
        return Caption({"TEXT": text}, text)
    if source == "redcaps":
        folded = fold(text).lower()
        return Caption({"raw_caption": text, "caption": folded}, folded)
    if source == "wit":
        attribution = _one(("Own work", "File:Drawing {n}.svg", "English: Icon", "Unknown author", ""), rng)
        attribution = attribution.replace("{n}", str(rng.integers(1, 900)))
        # Alternative texts are rare in the source, and one that repeats the caption would hide a wrong recipe.
        alternative = "drawing" if text and rng.random() < 0.15 else ""
        fields: dict[str, str | None] = {"caption_reference_description": text}
        fields |= {"caption_attribution_description": attribution, "caption_alt_text_description": alternative}
        return Caption(fields, text)
    return Caption({"caption": text}, text)


def fold(text: str) -> str:
    """`text` in ASCII as RedCaps has it: typographic quotes made plain, accents and brackets dropped."""
    plain = text.translate(str.maketrans("’‘“”–", "''''-"))
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[()\[\]{}]", "", ascii_only)


def join_names(names: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(template: str, slots: dict[str, str]) -> str:
    return string.Template(template).substitute(slots)


def _slots(words: Words, rng: np.random.Generator) -> dict[str, str]:
    name = join_names(words.names)
    keywords = [k for k in words.keywords if k.isascii() and k not in words.names and len(k) > 2] or ["icon"]
    first, second = _one(keywords, rng), _one(keywords, rng)
    article = "" if len(words.names) > 1 else ("an " if name[0] in "aeiou" else "a ")
    return {
        "name": name,
        "Name": _capital(name),
        "Title": string.capwords(name),
        "a_name": f"{article}{name}",
        "A_name": _capital(f"{article}{name}"),
        "kw": first,
        "Kw": _capital(first),
        "kw2": second,
        "n": str(rng.integers(1, 999)),
        "year": str(rng.integers(2006, 2014)),
        "camera": _one(("Nikon D90", "Canon EOS 350D", "Panasonic DMC-TZ5", "Sony A200", "Olympus E-510"), rng),
    }


def _yfcc(slots: dict[str, str], tags: list[str], rng: np.random.Generator) -> Caption:
    """Title and description, one of which may say nothing (a camera's file name, a bare link)."""
    way = rng.random()
    named_title, named_text = _fill(_one(YFCC_TITLES, rng), slots), _fill(_one(YFCC_WITH_NAME, rng), slots)
    plain_title, plain_text = _fill(_one(YFCC_PLAIN, rng), slots), _fill(_one(YFCC_WITHOUT_NAME, rng), slots)
    title = plain_title if way > 0.75 else named_title
    description = plain_text if way < 0.5 else named_text
    return _yfcc_fields(title, description, tags[: int(rng.integers(0, 7))])


def _yfcc_fields(title: str, description: str, tags: list[str]) -> Caption:
    text = " ".join(re.sub(r"<[^>]*>|https?://\S+", "", f"{title} {description}").split())
    encoded_tags = ",".join(quote_plus(tag) for tag in dict.fromkeys(tags))
    return Caption(
        {"title": quote_plus(title), "description": quote_plus(description), "usertags": encoded_tags}, text or None
    )
