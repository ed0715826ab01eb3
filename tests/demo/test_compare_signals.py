"""The checks of the caption signals: what they count as found, missed and false."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from demo.compare_pictures import Pair
from demo.compare_signals import signals
from demo.lists import BLOCKED, BLOCKED_PHRASES, CLASSES, ENTRIES, class_names, entry_names, write_lists
from evaluation.report_data import Check
from filters.entries import load_entries
from filters.phrases import load_phrases


def pair(uid: str, caption: str, language: str = "en", **found: Any) -> Pair:
    says = {
        "uid": uid, "status": "success", "caption": caption, "language": language, "caption_blocked": False,
        "text_based": False, "caption_of": None,
    }  # fmt: skip
    return Pair({"caption_language": "en"}, {**says, **found}, ("icon", "noto", uid))


def by_name(pairs: list[Pair]) -> dict[str, Check]:
    return {check.check: check for check in signals(pairs)}


def test_phrases_are_counted_as_whole_words_of_any_case() -> None:
    name = class_names()[0]
    pairs = [
        pair("a", "Royalty FREE picture", caption_blocked=True),
        pair("b", "royalty freedom"),
        pair("c", f"a {name.upper()}, drawn", text_based=True),
        pair("d", f"a un{name}"),
    ]
    checks = by_name(pairs)
    blocked, named = (
        checks["captions with a phrase of the block list"],
        checks["captions that name a class of the list"],
    )
    assert (blocked.planted, blocked.found, blocked.false, blocked.met) == (1, 1, 0, True)
    assert (named.planted, named.found, named.false, named.met) == (1, 1, 0, True)
    wrong = by_name([pair("a", "royalty free"), pair("b", "royalty freedom", caption_blocked=True)])
    blocked = wrong["captions with a phrase of the block list"]
    assert (blocked.planted, blocked.found, blocked.false, blocked.met) == (1, 0, 1, False)


def test_equal_captions_must_point_at_one_of_theirs() -> None:
    pairs = [pair("a", "A  dog"), pair("b", "a dog", caption_of="a"), pair("c", "a cat")]
    check = by_name(pairs)["captions equal to another"]
    assert (check.planted, check.found, check.met) == (2, 2, True)
    check = by_name([*pairs, pair("d", "a dog")])["captions equal to another"]
    assert (check.planted, check.found, check.met) == (3, 0, False)


def test_languages() -> None:
    foreign = pair("a", "ein Hund", "de")
    foreign.truth["caption_language"] = "de"
    taken = pair("b", "un chien", "en")
    taken.truth["caption_language"] = "fr"
    checks = by_name([foreign, taken, pair("c", "a dog")])
    assert checks["captions in other languages, called not English"].found == 1
    assert checks["captions in other languages, called not English"].met is False
    assert checks["captions in other languages, called by their language"].found == 1
    assert checks["English captions, called English"].met


def test_without_signals_there_are_no_checks() -> None:
    assert signals([pair("a", "a dog", language="")]) == []


def test_lists_can_be_read_by_the_filters(tmp_path: Path) -> None:
    write_lists(tmp_path)
    assert load_phrases(tmp_path / BLOCKED).texts == BLOCKED_PHRASES
    assert list(load_phrases(tmp_path / CLASSES).texts) == class_names()
    assert list(load_entries(tmp_path / ENTRIES).texts) == entry_names()
    assert len(class_names()) == 100 and "dog face" in entry_names()
