"""Training steps of a CLIP model: ours against open_clip_train's own, on the same batches with the same optimiser.

    python -m benchmarks.train [--quick] [--gpu]

ViT-B/32 with random weights; captions of lognormal length (sigma 0.55, mean 15 tokens, 3 to 77, seeded), pictures
that are made up. The peer is `open_clip_train.train.train_one_epoch`, fed by tensors that are ready on the device;
ours normalises its pictures itself. Each side runs in a process of its own, in turn. `benchmarks.train_sides` says
what each does.

On the CPU: fp32, 256 pairs a step, goal 1.3 times fewer CPU seconds; and what of it comes from cutting texts (in
length-sorted chunks, which is what we ship, and packed without padding) and from the optimiser.

With --gpu: 1,024 and 4,096 pairs; (a) open_clip's default flags (amp, no compilation), goal 1.4 times; (b) the best
of its precisions and compilation, goal 1.25 times; MFU against the measured rate of matrix products; and the losses
of 500 steps of either, which must not differ by more than two seeds of the peer do.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from benchmarks.score import caption_lengths
from benchmarks.train_sides import Found, Side
from filters.errors import InputError
from trainer.work import matrix_rate

ROUNDS = 2
GOALS = {"cpu": 1.3, "gpu a": 1.4, "gpu b": 1.25}
CURVE = 500
LAST = 50  # steps of a curve whose mean loss is compared


def once(side: Side) -> Found:
    """Run a side in a process of its own; InputError with its last words if it fails."""
    command = [sys.executable, "-m", "benchmarks.train_sides", json.dumps(asdict(side))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return Found(**json.loads(done.stdout.splitlines()[-1]))


def in_turn(sides: Sequence[Side], rounds: int) -> dict[str, list[Found]]:
    """Each side once a round, in turn from the front and from the back."""
    found: dict[str, list[Found]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            found[side.name].append(once(side))
    return found


def show(
    sides: Sequence[Side], found: dict[str, list[Found]], peer: str, of_cpu: bool, rate: float
) -> dict[str, Any]:
    """Print a table; seconds a step and the peer's as a multiple of them, the median of the rounds' ratios."""
    print(f"{'':34s}{'s a step':>10s}{'CPU s':>9s}{'peak GiB':>10s}{'padding':>9s}{'MFU':>7s}{peer + ', times':>20s}")
    figures: dict[str, Any] = {}
    for side in sides:
        runs = found[side.name]
        seconds, cpu = (statistics.median(getattr(run, name) for run in runs) for name in ("seconds", "cpu"))
        pairs = zip(found[peer], runs, strict=True)
        ratio = statistics.median((a.cpu / b.cpu) if of_cpu else (a.seconds / b.seconds) for a, b in pairs)
        last = runs[-1]
        padding, mfu = last.spent_flops / last.needed_flops - 1, last.needed_flops / (seconds * rate)
        line = f"{side.name:34s}{seconds:10.3f}{cpu:9.2f}{max(run.memory for run in runs) / 2**30:10.2f}"
        print(f"{line}{padding:9.0%}{mfu:7.1%}{ratio:20.2f}", flush=True)
        figures[side.name] = {"seconds": seconds, "cpu": cpu, "mfu": mfu, "ratio": ratio}
    return figures


def on_cpu(quick: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """fp32 on all cores, by CPU seconds."""
    base = Side("open_clip", "open_clip", model="tiny", batch=32) if quick else Side("open_clip", "open_clip")
    ours = replace(base, name="ours", who="ours")
    parts = [
        replace(ours, name="ours, texts whole, plain AdamW", texts="whole", optimizer="plain"),
        replace(ours, name="ours, texts cut, plain AdamW", optimizer="plain"),
        replace(ours, name="ours, texts packed", texts="packed"),
    ]
    sides = [base, ours, *parts]
    found = in_turn(sides, 1 if quick else ROUNDS)
    figures = show(sides, found, base.name, True, matrix_rate(torch.device("cpu"), torch.float32))
    first = [runs[0].losses[-1] for runs in (found["open_clip"], found["ours"])]
    print(f"losses of the same step: {first[0]:.6f} and {first[1]:.6f}")
    return figures, {"cpu": figures["ours"]["ratio"] >= GOALS["cpu"]}


def on_gpu(batch: int, quick: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Default flags, and the best of precision and compilation, by the clock."""
    base = Side("", "open_clip", batch=batch, device="cuda", warmup=5, steps=3 if quick else 20)
    peers = [
        replace(
            base,
            name=f"open_clip {precision}{' compiled' if compiled else ''}",
            precision=precision,
            compile=compiled,
        )
        for precision in ("amp", "amp_bf16")
        for compiled in (False, True)
    ]
    ours = [
        replace(
            base,
            name=f"ours bf16{' compiled' if compiled else ''}",
            who="ours",
            precision="amp_bf16",
            compile=compiled,
        )
        for compiled in (False, True)
    ]
    ours.append(replace(ours[0], name="ours bf16, texts whole", texts="whole"))
    ours.append(replace(ours[0], name="ours bf16, texts packed", texts="packed"))
    ours.append(replace(ours[0], name="ours bf16, plain AdamW", optimizer="plain"))
    sides = [*peers, *ours]
    found = in_turn(sides, 1 if quick else ROUNDS)
    figures = show(sides, found, peers[0].name, False, matrix_rate(torch.device("cuda"), torch.bfloat16))
    best = min(figures[side.name]["seconds"] for side in peers)
    own = min(figures[side.name]["seconds"] for side in ours[:2])
    default = figures[peers[0].name]["seconds"]
    print(f"batch {batch}: (a) {default / own:.2f} times, (b) {best / own:.2f} times")
    figures |= {"a": default / own, "b": best / own}
    return figures, {
        f"gpu a {batch}": default / own >= GOALS["gpu a"],
        f"gpu b {batch}": best / own >= GOALS["gpu b"],
    }


def curves(quick: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Mean losses of the last of 500 steps on new batches: ours, the peer's, and the peer's with another seed."""
    steps = 20 if quick else CURVE
    peer = Side("open_clip", "open_clip", batch=1024, device="cuda", precision="amp_bf16", steps=steps, stream=True)
    ends = {
        name: float(np.mean(once(side).losses[-LAST:]))
        for name, side in (
            ("open_clip", peer),
            ("open_clip, seed 1", replace(peer, seed=1)),
            ("ours", replace(peer, who="ours")),
        )
    }
    noise = abs(ends["open_clip"] - ends["open_clip, seed 1"])
    print(f"mean loss of the last {LAST} of {steps} steps: " + ", ".join(f"{k} {v:.4f}" for k, v in ends.items()))
    return {"curve": ends}, {"curve": abs(ends["ours"] - ends["open_clip"]) <= max(noise, 0.02)}


def _parts(*, gpu: bool, quick: bool) -> Iterator[tuple[dict[str, Any], dict[str, bool]]]:
    if not gpu:
        yield on_cpu(quick)
        return
    for batch in (1024, 4096):
        yield on_gpu(batch, quick)
    yield curves(quick)


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    parser.add_argument("--gpu", action="store_true", help="on a GPU instead of the CPU")
    chosen = parser.parse_args(argv)
    if chosen.gpu and not torch.cuda.is_available():
        print("python -m benchmarks.train: --gpu was asked for, but PyTorch finds no GPU", file=sys.stderr)
        return 2
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("open_clip_torch", "torch"))
    device = torch.cuda.get_device_name() if chosen.gpu else f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{device}, Python {platform.python_version()}, {versions}")
    lengths = np.stack([caption_lengths(256, seed) for seed in range(64)])
    about = (lengths.mean(), np.percentile(lengths, 99), lengths.max(axis=1).mean())
    print("tokens of a caption: mean {:.1f}, 99 % up to {:.0f}, longest of 256 {:.1f} on average".format(*about))
    print("each side: python -m benchmarks.train_sides JSON")
    figures: dict[str, Any] = {}
    met: dict[str, bool] = {}
    for found, reached in _parts(gpu=chosen.gpu, quick=chosen.quick):
        figures |= found
        met |= reached
    for name, is_met in met.items():
        print(f"{name}: {'met' if is_met else 'missed'}")
    print(json.dumps({"benchmark": "train", "figures": figures, "goals": GOALS, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
