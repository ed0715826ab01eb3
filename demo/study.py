"""How well near duplicates are told from different pictures: transformed copies of the demo's drawings.

Drawings and copies go through the same functions as pictures in `headwater dedupe`. A copy is found when it and its
original are candidates and their verified distance is within the threshold; a drawing is falsely called when another,
different one is that close to it. So one pass gives both rates at all thresholds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter

from demo.drawings import DRAWINGS, load_drawings, same_drawings
from demo.study_transforms import STEPS, Step, transform
from evaluation.report_data import Check, Study, StudyLine
from filters.near import thumbnail
from filters.near_pairs import NearParams, Pictures, cross_candidates, distances, self_candidates
from filters.pixels import RGB, decode
from filters.stored import Recipe, store
from pipelines.job import say
from pipelines.store.root import Root

FILE = "study.json"
COPIES = {True: 150, False: 60}  # of each transform and strength, with and without a goal
GOAL_RECALL, GOAL_FALSE = 0.98, 0.005
NOTE = (
    "The pictures are drawings of openclipart by many hands, among them hard negatives: lenses with other signs, "
    "moons in other phases, the same figure in another mood. The goal is set for copies like those that the demo's "
    "web plants (scaling, JPEG, crops of at most 5 % and their combinations) and for WebP at the same qualities; "
    "what else may befall a picture is shown without one. Mirrored pictures and written-on ones are not looked for."
)
THRESHOLDS = tuple(round(0.005 * step, 3) for step in range(81))

_PIXELS = 4_000_000

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Look = tuple[int, tuple[int, int], RGB]
Job = tuple[Step, int]  # what to do to which drawing


Found = tuple[Indices, Floats]  # pairs int64 [P, 2] and their verified distances float32 [P]


def run_study(seed: int, share: float = 1.0, *, drawings: int | None = None, threads: int = 2) -> Study:
    """Study the first `drawings` drawings (all if None) with copies drawn from `seed`; the same for the same seed.

    `share` is how many copies are made, of those that `COPIES` names.
    """
    table = load_drawings().slice(0, drawings)
    names, images = table["drawing"].to_pylist(), table["image"].to_pylist()
    plan = planned(len(names), seed, share)
    base, copies = pictures_of(looks_of(images, threads)), pictures_of(copies_of(images, seed, plan, threads))
    every, of_copy = np.arange(len(names)), np.arange(len(plan))
    clean = self_candidates(base, every, NearParams())
    found = cross_candidates(copies, of_copy, base, every, NearParams())
    return summed_up(
        names,
        plan,
        (clean, distances(base, clean[:, 0], base, clean[:, 1])),
        (found, distances(copies, found[:, 0], base, found[:, 1])),
    )


def study_of(root: Root, seed: int, share: float = 1.0) -> None:
    """Run the study and write it to `<root>/study.json`, unless it is there and would be the same."""
    limits = dataclasses.asdict(NearParams())
    mark = {
        "seed": seed,
        "share": share,
        "drawings": hashlib.sha256(DRAWINGS.read_bytes()).hexdigest(),
        "params": limits,
    }
    if root.exists(FILE) and root.read_json(FILE)["mark"] == mark:
        say("study: done before")
        return
    study = run_study(seed, share)
    root.write_json({"mark": mark, "study": dataclasses.asdict(study)}, FILE)
    say(
        f"study: {study.recall()[study.chosen]:.1%} of the copies with a goal found, "
        f"{study.false_rate[study.chosen]:.1%} of {study.pictures} drawings called copies of different ones"
    )


def read_study(root: Root) -> Study | None:
    """The study under `root`; None before it was run."""
    return TypeAdapter(Study).validate_python(root.read_json(FILE)["study"]) if root.exists(FILE) else None


def planned(drawings: int, seed: int, share: float = 1.0) -> list[Job]:
    """The copies to make: for each step a choice of the drawings, drawn from `seed`."""
    jobs = []
    for number, step in enumerate(STEPS):
        order = np.random.default_rng([seed, 1, number]).permutation(drawings)
        jobs += [(step, int(place)) for place in np.sort(order[: max(1, round(share * COPIES[step.goal]))])]
    return jobs


def looks_of(images: Sequence[bytes], threads: int = 2) -> list[Look]:
    """The looks of encoded pictures."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_look, images))


def copies_of(images: Sequence[bytes], seed: int, plan: Sequence[Job], threads: int = 2) -> list[Look]:
    """The looks of the planned copies of `images`; the same for the same seed and plan."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda job: _copy(images, seed, job), enumerate(plan)))


def pictures_of(looks: Sequence[Look]) -> Pictures:
    """Pictures as the functions that compare them want them."""
    hashes, sizes, thumbs = zip(*looks, strict=True)
    width, height = np.array(sizes, np.int64).T
    columns = {"phash": pa.array(hashes, pa.uint64()), "original_width": width, "original_height": height}
    return Pictures(pa.table(columns), np.stack(thumbs).__getitem__)


def _look(data: bytes) -> Look:
    """phash, original size and thumbnail of an encoded picture, as a download by default and `dedupe` make them."""
    stored = store(data, Recipe())
    small = decode(stored.image, max_pixels=_PIXELS).rgb
    return stored.phash, (stored.original_width, stored.original_height), thumbnail(small)


def _copy(images: Sequence[bytes], seed: int, numbered: tuple[int, Job]) -> Look:
    number, (step, place) = numbered
    return _look(transform(images[place], step, np.random.default_rng([seed, 2, number])))


def summed_up(names: Sequence[str], plan: Sequence[Job], clean: Found, found: Found) -> Study:
    """The study's rates, from the near pairs of drawings, and of copies (in the order of `plan`) with drawings."""
    limit = NearParams().max_distance
    excused = _excused(names)
    is_false = ~excused[clean[0][:, 0], clean[0][:, 1]]
    pairs, apart = clean[0][is_false], clean[1][is_false]
    # A drawing is called a copy where a better one is near: of each false pair the later drawing is.
    closest = np.full(len(names), np.inf)
    np.minimum.at(closest, pairs[:, 1], apart)
    (copy, place), distance = found[0].T, found[1]
    original = np.array([drawing for _, drawing in plan], np.int64)[copy]
    own = place == original
    reached, astray = np.full(len(plan), np.inf), np.zeros(len(plan), np.bool_)
    reached[copy[own]] = distance[own]
    astray[copy[~own & (distance <= limit) & ~excused[original, place]]] = True
    steps = list(dict.fromkeys(step for step, _ in plan))
    of_step = np.array([steps.index(step) for step, _ in plan])
    return Study(
        thresholds=list(THRESHOLDS),
        chosen=THRESHOLDS.index(round(limit, 3)),
        false_rate=[float(np.mean(closest <= t)) for t in THRESHOLDS],
        lines=[_line(step, reached[of_step == n], astray[of_step == n]) for n, step in enumerate(steps)],
        pictures=len(names),
        pairs=(len(names) * (len(names) - 1) - int(excused.sum())) // 2,
        candidates=len(pairs),
        false_pairs=int(np.sum(apart <= limit)),
        excused=int(excused.sum()) // 2,
        goal_recall=GOAL_RECALL,
        goal_false=GOAL_FALSE,
        note=NOTE,
    )


def _excused(names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which drawings [N, N] look the same by nature."""
    place = {name: number for number, name in enumerate(names)}
    same = np.zeros((len(names), len(names)), np.bool_)
    for one, other in map(tuple, same_drawings()):
        if one in place and other in place:
            same[place[one], place[other]] = same[place[other], place[one]] = True
    return same


def _line(step: Step, reached: npt.NDArray[np.float64], astray: npt.NDArray[np.bool_]) -> StudyLine:
    recall = [float(np.mean(reached <= t)) for t in THRESHOLDS]
    return StudyLine(step.group, step.strength, len(reached), recall, int(astray.sum()), step.goal)


def study_checks(study: Study) -> list[Check]:
    """Whether the threshold in use finds enough of the copies that have a goal, and calls few enough drawings."""
    planted = sum(line.copies for line in study.lines if line.goal)
    recall, false = study.recall()[study.chosen], study.false_rate[study.chosen]
    found = round(recall * planted)
    return [
        Check(
            "drawings: re-encoded, scaled and cropped copies", planted, found, planted - found, rate=recall,
            goal="at least 98 %", met=recall >= study.goal_recall,
        ),
        Check(
            "drawings called copies of different ones", study.pictures, None, None, round(false * study.pictures),
            false, goal="at most 0.5 %", met=false <= study.goal_false,
        ),
    ]  # fmt: skip
