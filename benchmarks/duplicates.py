"""Duplicate search at scale: planted pairs among embeddings, and near hashes, with what they cost and how that grows.

    python -m benchmarks.duplicates [--quick] [--gpu]

Embeddings: 1 M × 512 in fp16 (a tenth with --quick), in topics of very unequal size around a common direction, a
fifth of them uniform noise. One in fifty is a planted partner of another row at a cosine of 0.95 in a random
direction; the search threshold is 0.0001 lower, for the rounding to fp16. Pairs that occur by themselves are counted
by exact search of a sample. Hashes: 1, 3 and 10 M of 64 bits, a twentieth of them four bits from another, all to be
found within radius 4. Looks: 25, 50 and 100 thousand pictures of 16 × 16 (`benchmarks.looks`), a fiftieth of them
another one cropped; they are searched by pixels as a crowd is, the first two numbers of them completely too. Each
part runs in a process of its own, for its memory; nothing but the search is timed.

--gpu runs 10 M embeddings (1 M with --quick) in this process: it needs numpy, faiss, torch and a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.looks import looks
from filters.candidates import near_tangent_pairs
from filters.clusters import pair_recall, similar_pairs
from filters.hamming import hamming_self_pairs
from filters.near_pairs import NearParams

Pairs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

COSINE, THRESHOLD, RADIUS, WIDTH = 0.95, 0.9499, 4, 512
GOALS = {
    "planted_recall": 0.99, "minutes": 10.0, "peak_gib": 8.0, "hash_recall": 1.0, "hash_growth": 1.3,
    "look_recall": 0.98, "look_growth": 1.6,
}  # fmt: skip
GPU_GOALS = {"planted_recall": 0.99, "minutes": 2.0}
_BLOCK = 1 << 16


def embeddings(size: int, seed: int = 0) -> tuple[npt.NDArray[np.float16], Pairs]:
    """Unit vectors float16 [size, 512] and the planted pairs (i, j), i < j, among them: int64 [size / 50, 2]."""
    rng = np.random.default_rng(seed)
    topics = max(8, size // 400)
    weight = rng.pareto(1.5, topics) + 1
    topic = rng.choice(topics, size, p=weight / weight.sum())
    common = _unit(rng.standard_normal((1, WIDTH), dtype=np.float32))
    # Topics and what varies inside them share 64 directions; the other half is each one's own.
    shared = rng.standard_normal((64, WIDTH), dtype=np.float32) / np.float32(np.sqrt(WIDTH))
    centre = _unit(_mixed(rng, topics, shared))
    spread = rng.uniform(0.3, 1.3, (topics, 1)).astype(np.float32)
    out = np.empty((size, WIDTH), np.float16)
    target = rng.permutation(size)
    planted = size // 50
    source, partner = np.split(target[-2 * planted :], 2)

    def fill(start: int) -> None:
        part = np.random.default_rng([seed, start])
        own = topic[start : start + _BLOCK]
        rows = _unit(np.float32(0.9) * common + centre[own] + spread[own] * _unit(_mixed(part, len(own), shared)))
        noise = part.random(len(own)) < 0.2
        rows[noise] = _unit(part.standard_normal((int(noise.sum()), WIDTH), dtype=np.float32))
        out[start : start + _BLOCK] = rows

    def plant(start: int) -> None:
        part = np.random.default_rng([seed, start, 1])
        rows = _unit(out[source[start : start + _BLOCK]].astype(np.float32))
        random = part.standard_normal(rows.shape, dtype=np.float32)
        random = _unit(random - np.einsum("nd,nd->n", random, rows)[:, None] * rows)
        out[partner[start : start + _BLOCK]] = COSINE * rows + np.sqrt(1 - COSINE**2) * random

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, size, _BLOCK)))
        list(pool.map(plant, range(0, planted, _BLOCK)))
    return out, np.sort(np.stack([source, partner], axis=1), axis=1)


def _mixed(rng: np.random.Generator, size: int, shared: Floats) -> Floats:
    inner = rng.standard_normal((size, len(shared)), dtype=np.float32) / np.float32(np.sqrt(len(shared)))
    own = rng.standard_normal((size, WIDTH), dtype=np.float32) / np.float32(np.sqrt(WIDTH))
    return inner @ shared + np.float32(0.5) * own


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def hashes(size: int, seed: int = 0) -> tuple[npt.NDArray[np.uint64], Pairs]:
    """Hashes uint64 [size] and the pairs (i, j), i < j, planted among them four bits apart: int64 [size / 20, 2]."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**64, size, dtype=np.uint64)
    planted = size // 20
    # The 4 of 64 bits that differ: one in each quarter, so that they are different ones.
    bits = rng.integers(0, 16, (planted, RADIUS)).astype(np.uint64) + np.arange(0, 64, 16, dtype=np.uint64)
    found[-planted:] = found[:planted] ^ np.bitwise_or.reduce(np.left_shift(np.uint64(1), bits), axis=1)
    return found, np.stack([np.arange(planted), np.arange(size - planted, size)], axis=1)


def search_looks(size: int, *, complete: bool = False) -> dict[str, float]:
    """Figures of one search among `size` pictures; `complete`: of the search that visits all that may be near."""
    found, planted = looks(size)
    start = time.perf_counter()
    params = NearParams()
    probes = None if complete else params.tangent_probes
    pairs = near_tangent_pairs(found.__getitem__, size, found.__getitem__, size, params.tangent_radius, probes=probes)
    seconds = time.perf_counter() - start
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    recall = float(np.isin(planted @ [size, 1], pairs @ [size, 1]).mean())
    return {"seconds": seconds, "recall": recall, "planted": len(planted), "pairs": len(pairs)}


def search_looks_completely(size: int) -> dict[str, float]:
    """Figures of the complete search among `size` pictures."""
    return search_looks(size, complete=True)


def search_embeddings(size: int) -> dict[str, float]:
    """Figures of one search among `size` embeddings."""
    vectors, planted = embeddings(size)
    start = time.perf_counter()
    pairs, _, search = similar_pairs(vectors, THRESHOLD)
    seconds = time.perf_counter() - start
    recall = float(np.isin(planted @ [size, 1], pairs @ [size, 1]).mean())
    # The search's own choice of probes has seen another sample.
    natural = pair_recall(vectors, THRESHOLD, pairs, sample=500, seed=1)
    return {
        "seconds": seconds,
        "planted_recall": recall,
        "sampled_recall": natural,
        "boundary_recall": search.recall,
        "probes": search.probes,
        "planted": len(planted),
        "pairs": len(pairs),
    }


def search_hashes(size: int) -> dict[str, float]:
    """Figures of one search among `size` hashes."""
    found, planted = hashes(size)
    start = time.perf_counter()
    pairs = hamming_self_pairs(found, RADIUS)
    seconds = time.perf_counter() - start
    recall = float(np.isin(planted @ [size, 1], pairs @ [size, 1]).mean())
    return {"seconds": seconds, "recall": recall, "planted": len(planted), "pairs": len(pairs)}


PARTS = {
    "embeddings": search_embeddings,
    "hashes": search_hashes,
    "looks": search_looks,
    "all-looks": search_looks_completely,
}


def run_part(part: str, size: int) -> dict[str, Any]:
    """One part in this process: its figures, its peak memory, and how far other processes slowed it down.

    The slowdown is the mean, before and after, of what a fixed loop takes by the clock for each CPU second.
    """
    before = _slowdown()
    figures = PARTS[part](size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    slowdown = (before + _slowdown()) / 2
    return {**figures, "size": size, "peak_gib": peak, "slowdown": slowdown, "calm": figures["seconds"] / slowdown}


def _slowdown() -> float:
    values = np.random.default_rng(0).integers(0, 2**64, 1 << 20, dtype=np.uint64)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(50):
        np.sort(values)
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - cpu))


def _in_own_process(part: str, size: int) -> dict[str, Any]:
    from benchmarks.measure import run_measured

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "benchmarks.duplicates", "--part", part, "--size", str(size)]
        cost = run_measured(command, log, lambda _: part)
        figures: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
    figures["cpu"] = cost.cpu
    print(
        f"{part:10} {size:>11,}  {figures['seconds']:8.1f} s  {figures['calm']:8.1f} s undisturbed  "
        f"{figures['peak_gib']:5.2f} GiB  {figures['pairs']:>10,} pairs  "
        + ", ".join(f"{name.replace('_', ' ')} {figures[name]:.4f}" for name in figures if "recall" in name),
        flush=True,
    )
    return figures


def on_two_cores(quick: bool) -> tuple[dict[str, Any], dict[str, float], dict[str, bool]]:
    """Figures, goals and whether they are met, of both parts on the CPU."""
    scale = 10 if quick else 1
    near = _in_own_process("embeddings", 1_000_000 // scale)
    rows = [_in_own_process("hashes", size // scale) for size in (1_000_000, 3_000_000, 10_000_000)]
    complete = [_in_own_process("all-looks", size // scale) for size in (25_000, 50_000)]
    seen = [_in_own_process("looks", size // scale) for size in (25_000, 50_000, 100_000)]
    reached = {
        "planted_recall": near["planted_recall"], "minutes": near["calm"] / 60, "peak_gib": near["peak_gib"],
        "hash_recall": min(row["recall"] for row in rows), "hash_growth": _growth(rows),
        # Of what the complete search finds of the cropped ones.
        "look_recall": min(seen[n]["recall"] / complete[n]["recall"] for n in (0, 1)), "look_growth": _growth(seen),
    }  # fmt: skip
    met = {
        name: value >= GOALS[name] if "recall" in name else value <= GOALS[name] for name, value in reached.items()
    }
    for name, of in (("hashes", rows), ("looks", seen), ("all-looks", complete)):
        print(f"{name}: time grows with their number to the power {_growth(of):.2f}")
    return {**reached, "embeddings": near, "hashes": rows, "looks": seen, "all-looks": complete}, GOALS, met


def _growth(rows: Sequence[dict[str, Any]]) -> float:
    """The exponent of growth: 1 is proportional to the number searched, 2 to the number of its pairs."""
    return float(np.log(rows[-1]["calm"] / rows[0]["calm"]) / np.log(rows[-1]["size"] / rows[0]["size"]))


def on_gpu(quick: bool) -> tuple[dict[str, Any], dict[str, float], dict[str, bool]]:
    """Figures, goals and whether they are met, of the embeddings on a GPU."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("--gpu: torch sees no GPU here")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    figures = run_part("embeddings", 1_000_000 if quick else 10_000_000)
    figures["minutes"] = figures["seconds"] / 60
    figures["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{figures['size']:,} x {WIDTH}: {figures['seconds']:.1f} s, {figures['gpu_gib']:.1f} GiB on the GPU, "
        f"planted recall {figures['planted_recall']:.4f}, sampled recall {figures['sampled_recall']:.4f}"
    )
    met = {
        "planted_recall": figures["planted_recall"] >= GPU_GOALS["planted_recall"],
        "minutes": figures["minutes"] <= GPU_GOALS["minutes"],
    }
    return figures, GPU_GOALS, met


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=summary)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--gpu", action="store_true", help="only the embeddings, ten times as many, on a GPU")
    parser.add_argument("--part", choices=PARTS, help="one part alone, in this process")
    parser.add_argument("--size", type=int, default=100_000, help="rows of that part")
    asked = parser.parse_args(argv)
    if asked.part:
        print(json.dumps(run_part(asked.part, asked.size)))
        return 0
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, faiss {faiss.__version__}"
    print(f"{os.cpu_count()} cores, load {load}, {versions}")
    figures, goals, met = on_gpu(asked.quick) if asked.gpu else on_two_cores(asked.quick)
    print(json.dumps({"benchmark": "duplicates", "figures": figures, "goals": goals, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
