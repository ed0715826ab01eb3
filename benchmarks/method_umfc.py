"""UMFC on a stream of batches: sums of clusters against every feature kept, in memory held and in time a batch.

    python -m benchmarks.method_umfc [--quick]

Both sides see the same seeded features in batches of 100, from six domains, for 345 classes (DomainNet's numbers),
and their logits are asserted to be equal in every batch, to 1e-8. The other side does what the authors released: it
keeps each feature in a list of its cluster and takes all means anew in each batch. Memory is what the allocator says
is held after a batch; time is measured in a run of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evaluation.umfc import Calibrator
from evaluation.umfc_clusters import cluster

Floats = npt.NDArray[np.float64]

BATCH, CLASSES, CLUSTERS, WIDTH = 100, 345, 6, 512
# The state in arrays of M · (E + 1) float64 numbers, which are as many as means of E numbers and one of all need;
# bytes by which it grows from the second batch to the last.
GOALS = {"arrays_of_means": 4.0, "growth_bytes": 0.0, "difference": 1e-8}


class Side(Protocol):
    """What the benchmark asks of a method for streams."""

    def step(self, batch: Floats, text: Floats) -> Floats:
        """Take in a batch, then give its logits."""
        ...


class Sums:
    """Ours: sums and counts."""

    def __init__(self, clusters: int) -> None:
        self.owner = Calibrator(clusters)

    def step(self, batch: Floats, text: Floats) -> Floats:
        self.owner.update(batch)
        logits: Floats = self.owner.predict(batch, text)
        return logits


class Kept:
    """Every feature in a list of its cluster, and all means taken again in each batch."""

    def __init__(self, clusters: int) -> None:
        self.clusters = clusters
        self.lists: list[list[Floats]] = []

    def step(self, batch: Floats, text: Floats) -> Floats:
        rows, text = _unit(batch), _unit(text)
        first = not self.lists
        self.lists = self.lists or [[] for _ in range(self.clusters)]
        labels = cluster(rows, self.clusters) if first else _nearest(rows, self._means())
        for row, label in zip(rows, labels.tolist(), strict=True):
            self.lists[label].append(row.copy())
        means = self._means()
        average = np.mean(np.stack([row for rows in self.lists for row in rows]), axis=0)
        moved = _unit(np.mean([_unit(text - (mean - average)) for mean in means], axis=0))
        logits: Floats = 100 * _unit(rows - means[_nearest(rows, means)]) @ moved.T
        return logits

    def _means(self) -> Floats:
        return np.stack([np.mean(np.stack(rows), axis=0) for rows in self.lists])


def stream(batches: int, clusters: int = CLUSTERS, width: int = WIDTH, seed: int = 0) -> tuple[list[Floats], Floats]:
    """Batches float64 [100, E] of pictures from six domains, and texts [345, E]."""
    rng = np.random.default_rng(seed)
    domains, text = rng.standard_normal((clusters, width)), rng.standard_normal((CLASSES, width))
    names = rng.integers(0, CLASSES, (batches, BATCH))
    origin = rng.integers(0, clusters, (batches, BATCH))
    origin[:, :clusters] = np.arange(clusters)
    noise = rng.standard_normal((batches, BATCH, width))
    return list(0.5 * text[names] + domains[origin] + 0.3 * noise), text


def largest_difference(batches: Sequence[Floats], text: Floats) -> float:
    """Largest difference of any logit of both sides in any batch; an AssertionError where it is too large."""
    ours, theirs = Sums(CLUSTERS), Kept(CLUSTERS)
    largest = max(float(np.abs(ours.step(batch, text) - theirs.step(batch, text)).max()) for batch in batches)
    assert largest <= GOALS["difference"], f"logits differ by {largest}"
    return largest


def bytes_held(side: Side, batches: Sequence[Floats], text: Floats) -> npt.NDArray[np.int64]:
    """Bytes that the side holds after each batch: int64 [batches]."""
    held = np.zeros(len(batches), np.int64)
    gc.collect()
    tracemalloc.start()
    for number, batch in enumerate(batches):
        side.step(batch, text)
        held[number] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held


def milliseconds(side: Side, batches: Sequence[Floats], text: Floats) -> Floats:
    """Milliseconds that each batch took: float64 [batches]."""
    times = np.zeros(len(batches))
    for number, batch in enumerate(batches):
        begin = time.perf_counter()
        side.step(batch, text)
        times[number] = 1000 * (time.perf_counter() - begin)
    return times


def run(quick: bool, gpu: bool) -> dict[str, Any]:
    """Figures, goals and whether they are met; prints its table. With a GPU the same: this is work for a CPU."""
    count = 60 if quick else 300
    batches, text = stream(count)
    difference = largest_difference(batches, text)
    held = [bytes_held(make(CLUSTERS), batches, text) for make in (Sums, Kept)]
    times = [milliseconds(make(CLUSTERS), batches, text) for make in (Sums, Kept)]
    print(f"UMFC, {count} batches of {BATCH}, E = {WIDTH}, M = {CLUSTERS}, K = {CLASSES}, on the CPU")
    print(f"{'':24}{'sums':>14}{'all features kept':>20}")
    for name, place in (("second", 1), ("middle", count // 2), ("last", -1)):
        print(f"bytes held, {name:<12}{held[0][place]:>14,}{held[1][place]:>20,}")
    fifth = count // 5
    early, late = ([float(np.median(t[part])) for t in times] for part in (slice(1, fifth), slice(-fifth, None)))
    for name, (ours, theirs) in (("early", early), ("late", late)):
        print(f"ms a batch, {name:<12}{ours:>14.2f}{theirs:>20.2f}")
    figures = {
        "state_bytes": int(held[0][-1]), "kept_bytes": int(held[1][-1]),
        "memory_ratio": float(held[1][-1] / held[0][-1]), "arrays_of_means": _arrays_of_means(quick),
        "growth_bytes": int(held[0][-1] - held[0][1]), "kept_growth_bytes": int(held[1][-1] - held[1][1]),
        "difference": difference, "ms_a_batch": late[0], "kept_ms_a_batch": late[1],
    }  # fmt: skip
    print(f"largest difference of logits {difference:.1e}; state is {figures['arrays_of_means']:.2f} arrays of means")
    return {"figures": figures, "goals": GOALS, "met": {name: figures[name] <= GOALS[name] for name in GOALS}}


def _arrays_of_means(quick: bool) -> float:
    """The state against one array of means M · (E + 1) · 8 bytes, at its largest over several M and E."""
    worst = 0.0
    for clusters in (3, 12):
        for width in (128, 512):
            batches, text = stream(2 if quick else 5, clusters, width)
            side = Sums(clusters)
            for batch in batches:
                side.step(batch, text)
            worst = max(worst, side.owner.state_bytes / (8 * clusters * (width + 1)))
    return worst


def _unit(rows: Floats) -> Floats:
    normalised: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def _nearest(rows: Floats, means: Floats) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.linalg.norm(rows[:, None] - means, axis=2).argmin(axis=1)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_umfc", description=summary)
    parser.add_argument("--quick", action="store_true", help="a fifth of the batches")
    print(json.dumps({"benchmark": "method_umfc", **run(parser.parse_args(argv).quick, False)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
