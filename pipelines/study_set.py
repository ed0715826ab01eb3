"""The training set of one run of a study: an exact manifest with its lock, and what a scorer keeps of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.sampling import salt
from pipelines import lock as locks
from pipelines import manifest
from pipelines.draw import draw, survey
from pipelines.rules import find_rules
from pipelines.score import Scorer
from pipelines.store import catalog
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root
from pipelines.store.shards import read_images
from pipelines.study_config import StudyConfig
from pipelines.study_folder import RUNS, StudyFolder
from pipelines.study_matrix import Choice, RunSpec, mixture
from trainer.model import load_model

_BLOCK = 1024  # pairs that are held while they are scored


def write_set(
    folder: StudyFolder, config: StudyConfig, spec: RunSpec, mark: str, scorer: str | None, among: str = RUNS
) -> None:
    """Publish a run's manifest and lock file, unless they are there; `scorer` is the run that chooses, if one does.

    The samples are those of `headwater mix` for the same seed, so that smaller sets are part of larger ones.
    """
    place = (folder.name, among, spec.id)
    root = folder.root
    if root.exists(*place, manifest.FILE):
        return
    counts = dict(spec.counts) if spec.choice is None else dict.fromkeys(spec.counts, spec.choice.pool)
    mix = mixture(spec.id, config, counts, spec.seed, spec.half)
    with catalog.connect(root) as con:
        found = survey(con, find_rules(con, mix))
        groups: Iterable[pa.Table] = draw(con, found)
        chosen: dict[str, Any] | None = None
        if spec.choice is not None:
            table, chosen = choose(folder, spec, spec.choice, pa.concat_tables(groups), scorer, config)
            groups = manifest.row_groups(table.to_batches())
        with root.writing(*place, manifest.FILE) as file:
            content, sha256 = manifest.write(groups, file, {KEY: mark})
            lock = locks.make_lock(con, found, content, sha256, [])
            root.write_json({**lock, "choice": chosen}, *place, locks.FILE)


def choose(
    folder: StudyFolder, spec: RunSpec, choice: Choice, pool: pa.Table, scorer: str | None, config: StudyConfig
) -> tuple[pa.Table, dict[str, Any]]:
    """The rows of the pool that a scorer keeps, in their order, and what is to be said of the choice.

    Exactly the run's number is kept, the highest scores, ties in the pool's order; without a scorer they are drawn by
    the seed. A pair that has no score is the last to be kept.
    """
    pool, swapped = swap_captions(pool, choice.swapped, spec.seed)
    if scorer is None:
        scores = np.random.default_rng(salt("study-random", spec.seed)).random(len(pool))
    else:
        scores = score_pairs(folder.root, folder.local(RUNS, scorer, "model").as_posix(), pool, config)
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    kept = np.sort(order[: spec.samples])
    chosen = {
        "scorer": scorer or "random", "fraction": choice.fraction, "pool": len(pool), "kept": len(kept),
        "threshold": float(scores[order[spec.samples - 1]]) if scorer is not None else None,
        "swapped": int(swapped.sum()), "swapped_kept": int(swapped[kept].sum()),
    }  # fmt: skip
    return pool.take(kept), chosen


def swap_captions(pool: pa.Table, share: float, seed: int) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """The pool with the captions of a share of its rows moved on by one among them, and which rows these are [N]."""
    swapped = np.zeros(len(pool), np.bool_)
    count = round(share * len(pool))
    if count < 2:
        return pool, swapped
    rows = np.random.default_rng(salt("study-swapped", seed)).permutation(len(pool))[:count]
    swapped[rows] = True
    places = np.arange(len(pool))
    places[rows] = np.roll(rows, 1)
    column = pool.column_names.index("caption")
    return pool.set_column(column, pool.field(column), pool["caption"].take(pa.array(places))), swapped


def score_pairs(root: Root, model: str, pool: pa.Table, config: StudyConfig) -> npt.NDArray[np.float64]:
    """Cosine of picture and caption of each row of a manifest, float64 [N]; NaN where one cannot be embedded."""
    score = Scorer(load_model(model, device=device_of(config)), 256)
    found = []
    for start in range(0, len(pool), _BLOCK):
        rows = pool.slice(start, _BLOCK)
        pairs = rows.select(["uid", "caption"]).append_column("image", pa.array(read_images(root, rows), pa.binary()))
        found.append(score(pairs)["clip_score"].to_numpy().astype(np.float64))
    return np.concatenate(found)


def device_of(config: StudyConfig) -> str:
    """Where a study's models are read: on a GPU if each of its processes has one."""
    return "cuda" if config.gpus else "cpu"
