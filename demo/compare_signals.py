"""Found against planted, for captions: language, listed phrases and names, and captions that repeat each other.

What a caption says is known from the plan; the lists are those of `demo.lists`. The counts here use plain regular
expressions, so that nothing of the filters is checked by itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from demo.compare_pictures import Pair, make_check
from demo.lists import BLOCKED_PHRASES, class_names
from evaluation.report_data import Check

MIN_LANGUAGE = 0.9


def signals(pairs: Sequence[Pair]) -> list[Check]:
    """Checks of the caption signals of all stored pictures; none where signals were not computed."""
    ok = [pair for pair in pairs if pair.found["status"] == "success"]
    if not any(pair.found["language"] for pair in ok):
        return []
    return [*_languages(ok), _blocked(ok), _classes(ok), _captions(ok)]


def _languages(ok: Sequence[Pair]) -> list[Check]:
    foreign = [p for p in ok if p.truth["caption_language"] != "en"]
    told = sum(p.found["language"] != "en" for p in foreign)
    exact = sum(p.found["language"] == p.truth["caption_language"] for p in foreign)
    english = [p for p in ok if p.truth["caption_language"] == "en"]
    right = sum(p.found["language"] == "en" for p in english)
    # Captions of a few words, in the manner of file names and shops: no language model is sure of all of them.
    return [
        _at_least("captions in other languages, called not English", len(foreign), told),
        make_check("captions in other languages, called by their language", len(foreign), exact, "", None),
        _at_least("English captions, called English", len(english), right),
    ]


def _at_least(name: str, planted: int, found: int) -> Check:
    return make_check(
        name, planted, found, f"at least {MIN_LANGUAGE:.0%}".replace("%", " %"), found >= MIN_LANGUAGE * planted
    )


def _blocked(ok: Sequence[Pair]) -> Check:
    pattern = _any_of(BLOCKED_PHRASES)
    wanted = [bool(pattern.search(p.found["caption"])) for p in ok]
    return _agree("captions with a phrase of the block list", wanted, [p.found["caption_blocked"] for p in ok])


def _classes(ok: Sequence[Pair]) -> Check:
    pattern = _any_of(class_names())
    wanted = [bool(pattern.search(p.found["caption"])) for p in ok]
    return _agree("captions that name a class of the list", wanted, [p.found["text_based"] for p in ok])


def _captions(ok: Sequence[Pair]) -> Check:
    """Captions that another picture has too: all of them must point at one of their kind, or be it."""
    alike: dict[str, list[Pair]] = defaultdict(list)
    for pair in ok:
        alike[" ".join(pair.found["caption"].casefold().split())].append(pair)
    repeated = [pairs for pairs in alike.values() if len(pairs) > 1]
    planted = sum(map(len, repeated))
    found = 0
    for pairs in repeated:
        first = {pair.found["caption_of"] or pair.found["uid"] for pair in pairs}
        found += len(pairs) if len(first) == 1 else 0
    return make_check("captions equal to another", planted, found, "100 %", found == planted)


def _agree(name: str, wanted: Sequence[bool], found: Sequence[bool | None]) -> Check:
    planted = sum(wanted)
    right = sum(bool(f) for f, w in zip(found, wanted, strict=True) if w)
    false = sum(bool(f) for f, w in zip(found, wanted, strict=True) if not w)
    rate = right / planted if planted else None
    return Check(name, planted, right, planted - right, false, rate, "all", right == planted and not false)


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    """Any of the phrases between characters that are neither letters nor digits."""
    words = "|".join(re.escape(phrase) for phrase in phrases)
    return re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])", re.IGNORECASE)
