"""Loaders of training pairs: the mixture loader against webdataset, open_clip's own and torchvision's ImageFolder.

    python -m benchmarks.loader [--quick] [--profile] [--sides 256,512,1024] [--formats jpg,webp]

Made-up photographs of 256, 512 and 1,024 pixels, as JPEG and WebP of quality 90, in shards that all but ImageFolder
read (it gets the same pictures as files). In turn, each side in a process of its own with as many workers as there
are cores: samples a second and CPU milliseconds a sample (all processes), as normalised floats of 224 pixels with
tokens, of the whole mixture and of a selection of a tenth of it; then encoded, from one process; and the decoder
alone in one process, which no loader can pass. `benchmarks.loader_sides` says what each side does.

Goals, by samples a second, medians of the ratios of each round: 2 times open_clip's loader at 256 pixels and 3 times
at 512 (JPEG); 10 times webdataset on the selection, encoded, which is what a loader itself does, and decoded too.
With --profile, what our CPU time is made of.
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
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.loader_data import Corpus, Format, make
from benchmarks.loader_profile import shares
from benchmarks.loader_sides import Rate
from filters.errors import InputError

# Pairs and different pictures of a corpus by its side; a tenth of the pairs are more than a batch.
COUNTS = {256: (8192, 512), 512: (4096, 256), 1024: (2048, 64)}
QUICK = (1536, 24)
ROUNDS, SECONDS = 3, 6.0
LIBRARIES = ("open_clip_torch", "webdataset", "torchvision", "torch", "pillow", "simplejpeg")
WHOLE = ("ours", "open_clip", "webdataset", "ImageFolder")
OTHERS = ("ours", "webdataset", "ImageFolder")
GOALS = {"256 jpg open_clip": 2.0, "512 jpg open_clip": 3.0}
GOALS |= {f"{side} jpg webdataset {what}": 10.0 for side in (256, 512) for what in ("tenth bytes", "tenth")}


@dataclass(frozen=True, slots=True)
class Run:
    """One kind of run: a side, and which of its switches are set."""

    side: str
    switches: tuple[str, ...] = ()

    def command(self, corpus: Corpus, seconds: float) -> list[str]:
        """The command without the interpreter."""
        return [
            *("-m", "benchmarks.loader_sides", self.side, str(corpus.folder)),
            *("--side", str(corpus.side), "--format", corpus.format, "--seconds", str(seconds)),
            *("--workers", str(os.cpu_count()), *(f"--{switch}" for switch in self.switches)),
        ]

    def once(self, corpus: Corpus, seconds: float) -> Rate:
        """Run it; InputError with its last words if it fails."""
        done = subprocess.run([sys.executable, *self.command(corpus, seconds)], capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{' '.join(self.command(corpus, seconds))}:\n{done.stderr[-2000:]}")
        return Rate(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(slots=True)
class Results:
    """All rounds of all runs over one corpus."""

    corpus: Corpus
    rates: dict[Run, list[Rate]] = field(default_factory=dict)

    def add(self, rounds: int, seconds: float) -> None:
        """Each run once in each round, in turn from the front and from the back."""
        runs = list(runs_of(self.corpus))
        for number in range(rounds):
            for run in runs if number % 2 else runs[::-1]:
                self.rates.setdefault(run, []).append(run.once(self.corpus, seconds))

    def ratio(self, peer: str, switches: tuple[str, ...], of_cpu: bool = False) -> float:
        """How many times the peer's samples a second (or a CPU second) ours are: median of the rounds' ratios."""
        pairs = zip(self.rates[Run("ours", switches)], self.rates[Run(peer, switches)], strict=True)
        return round(statistics.median(_speed(a, of_cpu) / _speed(b, of_cpu) for a, b in pairs), 2)


def _speed(rate: Rate, of_cpu: bool) -> float:
    return rate.samples / (rate.cpu if of_cpu else rate.seconds)


def runs_of(corpus: Corpus) -> Iterator[Run]:
    """What is run over a corpus; encoded bytes are the same work in either format."""
    yield from (Run(side) for side in WHOLE)
    yield from (Run(side, ("tenth",)) for side in OTHERS)
    yield Run("decoder")
    if corpus.format == "jpg":
        yield from (Run(side, switches) for switches in (("bytes",), ("tenth", "bytes")) for side in OTHERS)


def report(results: Results) -> dict[str, float]:
    """Print the table of a corpus; its figures."""
    corpus, name = results.corpus, f"{results.corpus.side} {results.corpus.format}"
    print(f"\n{corpus.side} pixels, {corpus.format}, {corpus.count} pairs")
    print(f"{'':28s}{'samples/s':>10s}  {'(least to most)':20s}{'CPU ms':>9s}{'ours, times':>13s}{'by CPU':>8s}")
    figures = {}
    for run in runs_of(corpus):
        rates, label = results.rates[run], f"{run.side} {' '.join(run.switches)}".strip()
        speeds = [_speed(rate, of_cpu=False) for rate in rates]
        cpu = statistics.median(1000 * rate.cpu / rate.samples for rate in rates)
        spread = f"({min(speeds):.0f} to {max(speeds):.0f})"
        line = f"{label:28s}{statistics.median(speeds):10.0f}  {spread:20s}{cpu:9.3f}"
        figures[f"{name} {label} samples/s"] = round(statistics.median(speeds), 1)
        figures[f"{name} {label} cpu_ms"] = round(cpu, 4)
        if run.side not in ("ours", "decoder"):
            wall, of_cpu = (results.ratio(run.side, run.switches, of_cpu) for of_cpu in (False, True))
            figures |= {f"{name} {label}": wall, f"{name} {label} by cpu": of_cpu}
            line += f"{wall:13.2f}{of_cpu:8.2f}"
        print(line)
    cores, decoding = os.cpu_count() or 1, figures[f"{name} decoder cpu_ms"]
    share = decoding / figures[f"{name} ours cpu_ms"]
    print(
        f"decoding alone would give {1000 * cores / decoding:.0f} samples/s on all cores; it is {share:.0%} of ours"
    )
    return figures


def why(name: str, figures: dict[str, float]) -> str:
    """What stands against a goal that was missed."""
    if name.endswith("tenth"):
        key = name.removesuffix(" webdataset tenth")
        decoded, passed = (figures[f"{key} webdataset{what} cpu_ms"] for what in ("", " tenth"))
        own = figures[f"{key} ours tenth cpu_ms"]
        return (
            f"of webdataset's {passed:.2f} ms a sample {passed - decoded:.2f} go into nine that it passes over and "
            f"{decoded:.2f} into one that it decodes; ours takes {own:.2f}, most of it decoding and resizing, "
            f"and would have to take {passed / 10:.2f}"
        )
    return "see --profile for what our time is made of"


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures and shorter rounds, 256 pixels only")
    parser.add_argument("--profile", action="store_true", help="split our CPU time by what it is spent on")
    parser.add_argument("--sides", help="pixels, comma-separated")
    parser.add_argument("--formats", default="jpg,webp", help="comma-separated")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each run")
    chosen = parser.parse_args(argv)
    sides = [int(side) for side in (chosen.sides or ("256" if chosen.quick else "256,512,1024")).split(",")]
    rounds = chosen.rounds or (1 if chosen.quick else ROUNDS)
    seconds = chosen.seconds or (0.5 if chosen.quick else SECONDS)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, {versions}")
    figures: dict[str, float] = {}
    formats: list[Format] = [format for format in ("jpg", "webp") if format in chosen.formats.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for number, (side, format) in enumerate((side, format) for side in sides for format in formats):
            count, distinct = QUICK if chosen.quick else COUNTS[side]
            corpus = make(Corpus(Path(folder) / f"{side}-{format}", side, format, count, distinct))
            if not number:
                for run in runs_of(corpus):
                    print("python", *run.command(corpus, seconds))
            results = Results(corpus)
            results.add(rounds, seconds)
            figures |= report(results)
            sys.stdout.flush()
            if chosen.profile:
                figures |= profile(corpus, chosen.quick, seconds)
    met = {name: figures[name] >= goal if name in figures else None for name, goal in GOALS.items()}
    for name in (name for name, is_met in met.items() if is_met is False):
        print(f"missed: {name}: {figures[name]} times, the goal is {GOALS[name]}; {why(name, figures)}")
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    print(json.dumps({"benchmark": "loader", "figures": figures, "goals": GOALS, "met": met}))
    return 0


def profile(corpus: Corpus, quick: bool, seconds: float) -> dict[str, float]:
    """Print what our CPU time is spent on; the figures."""
    found = shares(corpus, 2 if quick else 12, seconds, os.cpu_count() or 1)
    print("ours, CPU ms a sample: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return {f"{corpus.side} {corpus.format} profile {name}": value for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
