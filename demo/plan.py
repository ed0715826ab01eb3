"""The plan of the demo web: every record of the six dumps, every picture and every planted fault, from one seed.

The plan is also the ground truth: what was planted and what the pipeline should make of it. Nothing but the tests and
the report's comparison may read it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from itertools import cycle, islice

import numpy as np
import pyarrow as pa

from demo.captions import Caption, empty_caption, foreign_caption, unbalanced_caption, write_caption
from demo.corpus import EVAL_STYLES
from demo.web_faults import COPIES, KINDS, LEAK_TRANSFORMS, TRANSFORMS, deal_kinds, set_behaviour, set_transform
from demo.web_placeholders import plant_placeholders
from demo.web_record import SOURCES, STYLE_OF, Record, to_records, to_table, write_ground_truth
from demo.web_urls import EXTENSION, make_url, unresolvable_url, unusable_url
from demo.web_vocabulary import Vocabulary, load_vocabulary
from pipelines.store.reasons import status_of

__all__ = ["make_plan", "to_records", "write_ground_truth"]

ALONE_SHARE = 0.77  # of the pictures that show one icon

_FORMATS: dict[str, dict[str, float]] = {
    "yfcc": {"jpeg": 0.9, "png_palette": 0.05, "gif": 0.05},
    "laion": {"jpeg": 0.5, "png_rgba": 0.15, "png_palette": 0.1, "webp": 0.15, "gif": 0.1},
    "cc12m": {"jpeg": 0.55, "png_rgba": 0.1, "png_palette": 0.1, "webp": 0.2, "gif": 0.05},
    "wit": {"jpeg": 0.4, "png_rgba": 0.35, "png_palette": 0.1, "webp": 0.05, "gif": 0.1},
    "redcaps": {"jpeg": 0.65, "png_rgba": 0.2, "webp": 0.05, "gif": 0.1},
    "shutterstock": {"jpeg": 0.85, "webp": 0.15},
}
_SUBREDDIT = {
    "activities": "boardgames",
    "animals-nature": "wildlifephotography",
    "flags": "vexillology",
    "food-drink": "foodporn",
    "objects": "antiques",
    "people-body": "sculpture",
    "smileys-emotion": "crafts",
    "symbols": "embroidery",
    "travel-places": "cityporn",
}
_CC_LICENCES = ("Attribution License", "Attribution-ShareAlike License", "Attribution-NonCommercial License")
_LATIN = ("de", "es", "fr", "pt")


def make_plan(seed: int, rows: int = 6000) -> pa.Table:
    """The records of all dumps, sorted by source, file and line; the same for the same seed and corpus.

    `rows` counts data records over the six sources, duplicate and broken ones included; InputError if they are too
    few to plant every fault twice. Columns are those of `demo.web_record.PLAN_SCHEMA`.
    """
    vocabulary = load_vocabulary()
    dealt = deal_kinds(rows, _generator(seed, 0))
    urls: set[str] = set()
    base: dict[str, list[Record]] = {}
    for number, source in enumerate(SOURCES):
        kinds = [kind for kind in dealt[source] if kind not in COPIES]
        base[source] = _draw_records(source, kinds, vocabulary, urls, _generator(seed, 1, number))
    copies = _copies(base, dealt, vocabulary, urls, _generator(seed, 2))
    records: list[Record] = []
    for number, source in enumerate(SOURCES):
        records += _laid_out(base[source] + copies[source], vocabulary, _generator(seed, 3, number))
    plant_placeholders(records, _generator(seed, 4))
    return to_table(records)


def _generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _draw_records(
    source: str, kinds: list[str], vocabulary: Vocabulary, urls: set[str], rng: np.random.Generator
) -> list[Record]:
    """One record a kind, each with concepts, picture, caption, address and fault."""
    drawn = vocabulary.drawn_in[STYLE_OF[source]]
    shuffled = [drawn[i] for i in rng.permutation(len(drawn))]
    is_stored = [KINDS[kind].reason == "ok" if kind in KINDS else True for kind in kinds]
    is_alone = rng.random(len(kinds)) < ALONE_SHARE
    # Of the pictures that will be stored, one at most shows an icon of the style alone: two would be near duplicates
    # that nobody planted. Pictures of several icons show first the concepts that are left, so that few go unused.
    alone = iter(shuffled)
    count = int(np.sum(is_alone & is_stored))
    together = cycle(shuffled[count:] + shuffled[:count])
    records = []
    for kind, single, stored in zip(kinds, is_alone, is_stored, strict=True):
        record = _new(source, kind, rng)
        record.style = STYLE_OF[source]
        main = drawn[int(rng.integers(len(drawn)))] if not stored else next(alone, None) if single else None
        if single and main is not None:
            record.concepts = [main]
        else:
            record.layout = "composed"
            record.concepts = list(islice(together, int(rng.choice([2, 3, 4, 5], p=[0.5, 0.3, 0.13, 0.07]))))
        _set_picture(record, rng)
        _finish(record, vocabulary, urls, rng)
        records.append(record)
    return records


def _new(source: str, kind: str, rng: np.random.Generator) -> Record:
    record = Record(source, plant=kind, seed=int(rng.integers(2**62)), picture_seed=int(rng.integers(2**62)))
    record.expected_reason = KINDS[kind].reason if kind in KINDS else "ok"
    record.expected_status = status_of(record.expected_reason).value
    record.license = _CC_LICENCES[int(rng.integers(3))] if source == "yfcc" else "?" if source == "laion" else ""
    record.nsfw_declared = "UNLIKELY" if source == "laion" else None
    record.language_declared = "en" if source == "wit" else None
    set_behaviour(record, rng)
    if kind == "nsfw_declared":
        record.nsfw_declared = None if record.param == "null" else record.param
    return record


def _set_picture(record: Record, rng: np.random.Generator) -> None:
    """Draw format, size in pixels and quality of the picture as first drawn."""
    formats = _FORMATS[record.source]
    record.format = str(rng.choice(list(formats), p=list(formats.values())))
    record.quality = int(rng.integers(72, 96))
    if record.layout == "single":
        side = int(rng.integers(64, 257))
        other = side if rng.random() < 0.7 else int(np.clip(side * rng.uniform(0.7, 1.4), 64, 256))
        record.width, record.height = side, other
        return
    low, high = [(320, 512), (512, 800), (800, 1201)][int(rng.choice(3, p=[0.55, 0.33, 0.12]))]
    side = int(rng.integers(low, high))
    if side > 640:
        record.format = "jpeg"  # large pictures on the web mostly are, and nothing else is as quick to serve
    other = round(side / float(rng.choice([1.0, 4 / 3, 3 / 2, 16 / 9])))
    record.width, record.height = (side, other) if rng.random() < 0.7 else (other, side)


def _finish(record: Record, vocabulary: Vocabulary, urls: set[str], rng: np.random.Generator) -> None:
    """Give the record its caption and its address."""
    record.true_name = vocabulary.name[record.concepts[0]]
    caption = _caption(record, vocabulary, rng)
    record.caption, record.caption_fields = caption.text, caption.fields
    extension = "webp" if record.leak_kind else EXTENSION[record.format]
    record.url, record.native_id = make_url(record.source, record.concepts[0], extension, rng)
    while record.url in urls:
        record.url, record.native_id = make_url(record.source, record.concepts[0], extension, rng)
    if record.plant == "dns":
        record.url = unresolvable_url(record.concepts[0], extension, rng)
    elif record.plant == "bad_url":
        record.url = unusable_url(record.concepts[0], extension, rng)
    urls.add(record.url)


def _caption(record: Record, vocabulary: Vocabulary, rng: np.random.Generator) -> Caption:
    record.caption_concepts = list(record.concepts)
    if record.plant == "null_caption":
        record.caption_concepts = []
        return empty_caption(record.source, rng)
    if record.plant in ("non_english_caption", "language_declared"):
        record.caption_concepts = record.concepts[:1]
        names = vocabulary.foreign[record.concepts[0]]
        languages = sorted(n for n in names if n in _LATIN or record.source != "redcaps")
        record.caption_language = languages[int(rng.integers(len(languages)))]
        if record.plant == "language_declared":
            record.language_declared = record.caption_language
        return foreign_caption(record.source, names[record.caption_language], record.caption_language, rng)
    if record.plant == "swapped_caption":
        record.caption_swapped, record.caption_concepts = True, vocabulary.unlike(record.concepts, rng)
    words = vocabulary.words(record.caption_concepts)
    if record.plant == "unbalanced_quote":
        return unbalanced_caption(record.source, words, rng)
    return write_caption(record.source, words, rng)


def _copies(
    base: dict[str, list[Record]],
    dealt: dict[str, list[str]],
    vocabulary: Vocabulary,
    urls: set[str],
    rng: np.random.Generator,
) -> dict[str, list[Record]]:
    """The records that repeat something: an earlier record, its picture, or an evaluation picture."""
    clean = {source: [r for r in records if r.plant == "clean"] for source, records in base.items()}
    everywhere = [r for source in SOURCES for r in clean[source]]
    fresh = iter([everywhere[i] for i in rng.permutation(len(everywhere))])
    cells = [(style, concept) for style in EVAL_STYLES for concept in vocabulary.drawn_in[style]]
    leaks = iter([cells[i] for i in rng.permutation(len(cells))])
    copies: dict[str, list[Record]] = defaultdict(list)
    for source in SOURCES:
        repeatable = iter([clean[source][i] for i in rng.permutation(len(clean[source]))])
        for kind in (k for k in dealt[source] if k in COPIES):
            if kind == "duplicate_row":
                copies[source].append(_same_row(next(repeatable)))
                continue
            record = _new(source, kind, rng)
            if kind in ("leak_exact", "leak_reencoded"):
                _leak(record, next(leaks), rng)
            else:
                # An exact copy may repeat a picture that has a copy already: groups of three and more occur.
                again = kind == "exact_duplicate" and rng.random() < 0.3
                _copy_picture(record, everywhere[int(rng.integers(len(everywhere)))] if again else next(fresh), rng)
            _finish(record, vocabulary, urls, rng)
            copies[source].append(record)
    return copies


def _same_row(original: Record) -> Record:
    reason = KINDS["duplicate_row"].reason
    again = dataclasses.replace(original, plant="duplicate_row", expected_reason=reason)
    again.expected_status = status_of(reason).value
    return copy.deepcopy(again)


def _leak(record: Record, cell: tuple[str, str], rng: np.random.Generator) -> None:
    style, concept = cell
    record.style, record.concepts = style, [concept]
    record.leak_style, record.leak_concept = style, concept
    record.leak_kind = "exact" if record.plant == "leak_exact" else "near"
    record.format, record.width, record.height = "webp", 128, 128
    if record.plant == "leak_reencoded":
        set_transform(record, LEAK_TRANSFORMS, 128, rng)


def _copy_picture(record: Record, original: Record, rng: np.random.Generator) -> None:
    for name in ("style", "layout", "format", "width", "height", "quality", "picture_seed"):
        setattr(record, name, getattr(original, name))
    record.concepts = list(original.concepts)
    record.duplicate_of_source, record.duplicate_of_url = original.source, original.url
    record.duplicate_kind = "exact"
    if record.plant == "near_duplicate":
        record.duplicate_kind = "near"
        set_transform(record, TRANSFORMS, max(original.width, original.height), rng)


def _laid_out(records: list[Record], vocabulary: Vocabulary, rng: np.random.Generator) -> list[Record]:
    """The records with file and line, sorted by them; a repeated row stands in its original's file, after it."""
    place: dict[str, tuple[str, float]] = {}
    for record in (r for r in records if r.plant != "duplicate_row"):
        place[record.url] = _file_of(record, vocabulary, rng), float(rng.random())
    ordered: dict[str, list[tuple[float, Record]]] = defaultdict(list)
    for record in records:
        record.file, position = place[record.url]
        if record.plant == "duplicate_row":
            position += (1 - position) * float(rng.uniform(0.01, 1))
        ordered[record.file].append((position, record))
    result = []
    for file in sorted(ordered):
        for line, (_, record) in enumerate(sorted(ordered[file], key=lambda item: item[0])):
            record.line = line
            result.append(record)
    return result


def _file_of(record: Record, vocabulary: Vocabulary, rng: np.random.Generator) -> str:
    part = int(rng.integers(2))
    if record.source == "redcaps":
        return f"{_SUBREDDIT[vocabulary.group[record.concepts[0]]]}_{2017 + part}.json"
    return {
        "yfcc": "yfcc100m_dataset.tsv",
        "laion": f"part-0000{part}-of-00002.snappy.parquet",
        "cc12m": "cc12m.tsv",
        "wit": f"wit_v1.train.all-0000{part}-of-00002.tsv.gz",
        "shutterstock": "shutterstock.tsv",
    }[record.source]
