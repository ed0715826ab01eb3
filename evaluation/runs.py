"""Runs of the source study: what each model was made from, and its figure on every single picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluation.accuracies import Metric
from evaluation.halves import Half, in_half
from evaluation.metrics import Ranks, top_k
from evaluation.results import ALL_CLASSES, Result, RunInfo
from filters.errors import InputError

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.str_]

_FILTER = ("scorer", "fraction", "half", "swapped")  # what of a filter makes another group of runs


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One set's pictures in the order of their keys: `keys` and `concepts` [N], `values` float64 [N], the accuracy on
    each, 0 to 1."""

    keys: Names
    concepts: Names
    values: Floats

    def of(self, half: Half | None) -> Pictures:
        """The pictures of one half of the concepts; all of them for None."""
        if half is None:
            return self
        names, place = np.unique(self.concepts, return_inverse=True)
        mine = in_half(names.tolist(), half)[place]
        return Pictures(self.keys[mine], self.concepts[mine], self.values[mine])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """One evaluated model. `group` is what it is one size or one seed of: a source, a mixture at given shares.

    `pictures` by (set, classes): the shift `s` stands under (s, s), the reference on its classes under (reference,
    s). `chance` by set. `same_family` are the sets that one of its sources was drawn by the artist of. `flags` are
    words for the report, such as `barely converged`: a flagged run counts as any other.
    """

    run_id: str
    kind: str
    group: str
    shares: Mapping[str, float]
    n_total: int
    seed: int | None
    samples_seen: int | None
    pictures: Mapping[tuple[str, str], Pictures]
    chance: Mapping[str, float]
    same_family: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()

    @property
    def cell(self) -> tuple[str, int, int | None]:
        """What is the same for runs that differ in nothing but their seed."""
        return self.group, self.n_total, self.samples_seen


def run_of(
    result: Result,
    images: pa.Table,
    *,
    group: str | None = None,
    flags: Iterable[str] = (),
    metric: Metric = "value",
) -> Run:
    """A run from its line of a results file and the table of its pictures (schema `evaluation.results.IMAGES`).

    `images` may hold other runs too. `group` is by default the run's sources with their shares, and its filter.
    `metric` is the study's own expected k-way accuracy, or "acc1", to stand beside other tools' results. InputError
    where the table has no picture of the run, or one twice.
    """
    mine = images.filter(pc.equal(images["run_id"], result.run_id))
    if not mine.num_rows:
        raise InputError(f"{result.run_id}: the table of pictures has none of this run; evaluate it again")
    sets = mine.group_by(["task", "concepts"]).aggregate([])
    pairs = zip(sets["task"].to_pylist(), sets["concepts"].to_pylist(), strict=True)
    shares = shares_of(result)
    return Run(
        run_id=result.run_id,
        kind=result.kind,
        group=_group(result, shares) if group is None else group,
        shares=shares,
        n_total=result.n_total,
        seed=result.seed,
        samples_seen=result.samples_seen,
        pictures={pair: _pictures(result.run_id, mine, *pair, metric) for pair in pairs},
        chance={
            name: figure.chance if metric == "value" else 1 / figure.classes for name, figure in result.eval.items()
        },
        same_family=frozenset(name for name, figure in result.eval.items() if figure.same_family),
        flags=frozenset(flags),
    )


def shares_of(result: RunInfo) -> dict[str, float]:
    """Each source's share: of the samples, or of an ensemble the weight of its model. Empty where none is known.

    InputError for an ensemble with another number of weights than components.
    """
    given = (result.ensemble or {}).get("weights")
    weights = given if result.kind == "output_mix" and isinstance(given, list) else [c.n for c in result.components]
    if len(weights) != len(result.components):
        raise InputError(
            f"{result.run_id}: {len(weights)} weights for an ensemble of {len(result.components)} models"
        )
    parts: dict[str, float] = {}
    for component, weight in zip(result.components, weights, strict=True):
        parts[component.source] = parts.get(component.source, 0.0) + weight
    total = sum(parts.values())
    return {source: part / total for source, part in sorted(parts.items()) if part} if total else {}


def _group(result: RunInfo, shares: Mapping[str, float]) -> str:
    """`a`, `a+b 25:75`, with ` ensemble` or what was filtered; what a filter's seed changed is not part of it."""
    words = ["+".join(shares) or result.model or result.run_id]
    if len(shares) > 1:
        words.append(":".join(f"{100 * share:.3g}" for share in shares.values()))
    if result.kind == "output_mix":
        words.append("ensemble")
    if result.kind == "filtered":
        known = {name: re.sub(r"-s\d+$", "", str(value)) for name, value in (result.filter or {}).items()}
        said = ", ".join(f"{name}={known[name]}" for name in _FILTER if name in known)
        words.append(f"filtered ({said})" if said else "filtered")
    return " ".join(words)


def _pictures(run_id: str, table: pa.Table, task: str, concepts: str, metric: Metric) -> Pictures:
    part = table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["concepts"], concepts))).sort_by("key")
    keys, names = (np.asarray(part[column].to_pylist(), np.str_) for column in ("key", "concept"))
    if (keys[1:] == keys[:-1]).any():
        where = task if concepts in (task, ALL_CLASSES) else f"{task} on the classes of {concepts}"
        raise InputError(f"{run_id}: {where}: picture {keys[1:][keys[1:] == keys[:-1]][0]} stands in its table twice")
    if metric == "value":
        values = np.asarray(part["expected_accuracy"].to_numpy(), np.float64)
    else:
        higher, ties = (np.asarray(part[column].to_numpy(), np.int64) for column in ("rank", "ties"))
        values = top_k(Ranks(higher, ties), 1)
    return Pictures(keys, names, values)
