"""Downloading the same pictures: img2dataset's command and ours, against what the codecs alone could do.

    python -m benchmarks.download [--quick] [--profile] [--folder DIR]

6,000 addresses on 16 loopback hosts, served by nginx (Linux only; without nginx nothing is measured): of 16 pictures
one is a PNG, one a WebP, the others photo-like JPEGs of 0.3 to 4 megapixels, one of them progressive; 320 different
files.

The sides take turns. Images a second are pictures stored over the time from the first shard's start to the last one's
end, as both tools write them in `_stats.json`: starting up is left out there, and is part of the whole command's
seconds. CPU and memory are those of all processes of the command, without the server. The bare codec is decoding,
shrinking and encoding alone, one process a core, from memory: what a downloader that does nothing else would reach.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.codec import codec_rate, store_shares
from benchmarks.measure import Cost, run_measured
from benchmarks.served import HOSTS, make_pictures, nginx, nginx_program
from filters.errors import HeadwaterError, InputError

PROGRAMS = Path(sys.executable).parent
SIZES = (256, 512)
SHARDS = 6
QUALITY = 95
# A process a core, each with threads enough that CPU time is what limits it.
CORES = os.cpu_count() or 1
PROCESSES, THREADS = CORES, 16
GOALS = {
    "ratio_256": 2.0,
    "ratio_512": 1.5,
    "cpu_ratio_256": 0.5,
    "share_of_codec_256": 0.75,
}
# One benchmark's hosts are asked for all they can give: nothing here is anyone else's server.
FETCH = (
    "fetch.allow_private_hosts=true",
    "fetch.limit.rate=null",
    "fetch.limit.concurrency=64",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One command's result: pictures stored, the first shard's start and the last one's end, cost."""

    images: int
    start: float
    end: float
    cost: Cost

    @property
    def rate(self) -> float:
        """Pictures a second while it downloaded."""
        return self.images / (self.end - self.start)

    @property
    def cpu(self) -> float:
        """CPU milliseconds a picture of the whole command, starting up and ending included."""
        return 1000 * self.cost.cpu / self.images

    @property
    def cpu_downloading(self) -> float:
        """CPU milliseconds a picture while it downloaded."""
        return 1000 * self.cost.cpu_between(self.start, self.end) / self.images


def img2dataset(work: Path, size: int, urls: int) -> list[str]:
    """img2dataset's command for the addresses in `work`."""
    return [
        str(PROGRAMS / "img2dataset"),
        f"--url_list={work / 'urls.parquet'}",
        "--input_format=parquet",
        "--url_col=url",
        "--caption_col=caption",
        "--output_format=webdataset",
        f"--output_folder={work / 'img2dataset'}",
        f"--processes_count={PROCESSES}",
        f"--thread_count={THREADS}",
        f"--image_size={size}",
        "--resize_mode=keep_ratio",
        "--resize_only_if_bigger=True",
        f"--encode_quality={QUALITY}",
        f"--number_sample_per_shard={urls // SHARDS}",
    ]


def headwater(work: Path, size: int, urls: int) -> list[str]:
    """Our command for the addresses in `work`, ingested before."""
    settings = [part for setting in FETCH for part in ("--set", setting)]
    return [
        str(PROGRAMS / "headwater"),
        "download",
        f"--root={work / 'headwater'}",
        "--resize-mode=keep_ratio",
        f"--image-size={size}",
        f"--encode-quality={QUALITY}",
        *settings,
    ]


SIDES: dict[str, Callable[[Path, int, int], list[str]]] = {"img2dataset": img2dataset, "headwater": headwater}
STORED = {"img2dataset": "img2dataset", "headwater": "headwater/shards"}


def prepare(work: Path, port: int, names: Sequence[str], urls: int) -> None:
    """Write the addresses as img2dataset's parquet and as a CC12M dump, and ingest the dump into a new root."""
    shutil.rmtree(work / "headwater", ignore_errors=True)
    lines = [
        (f"http://{HOSTS[i % len(HOSTS)]}:{port}/{i}/{names[i % len(names)]}", f"picture {i}") for i in range(urls)
    ]
    pq.write_table(pa.table({"url": [u for u, _ in lines], "caption": [c for _, c in lines]}), work / "urls.parquet")
    (work / "cc12m.tsv").write_text("".join(f"{url}\t{caption}\n" for url, caption in lines), encoding="utf-8")
    command = [str(PROGRAMS / "headwater"), "ingest", "--source=cc12m", f"--metadata={work / 'cc12m.tsv'}"]
    command += [f"--root={work / 'headwater'}", f"--samples-per-shard={urls // SHARDS}"]
    run_measured(command, work / "ingest.log", kind_of)


def run_side(side: str, work: Path, size: int, urls: int) -> Run:
    """One run of one side into an empty folder; HeadwaterError if it did not store every picture."""
    folder = work / STORED[side]
    shutil.rmtree(folder, ignore_errors=True)
    environment = {"NO_ALBUMENTATIONS_UPDATE": "1"}
    cost = run_measured(SIDES[side](work, size, urls), work / f"{side}.log", kind_of, environment)
    stats = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("*_stats.json")]
    images = sum(stat["successes"] for stat in stats)
    if images != urls:
        raise HeadwaterError(f"{side} stored {images} of {urls} pictures; its output is in {work / f'{side}.log'}")
    return Run(images, min(stat["start_time"] for stat in stats), max(stat["end_time"] for stat in stats), cost)


def kind_of(command: Sequence[str]) -> str:
    """What a process of either side is for, by its command line."""
    text = " ".join(command)
    kinds = {
        "ray::": "download worker (Ray)",
        "pipelines.sandbox": "decoding (sandbox)",
        "raylet": "Ray's own",
        "gcs_server": "Ray's own",
        "/ray/": "Ray's own",
        "img2dataset": "img2dataset",
        "multiprocessing": "img2dataset",
        "headwater": "the command itself",
    }
    return next((kind for mark, kind in kinds.items() if mark in text), "other")


def table(size: int, runs: dict[str, list[Run]], codec: float) -> str:
    """What one size gave: a line a side, median and spread, and the bare codec beside them."""
    heads = ("images/s", "CPU ms/image", "whole command: s", "CPU ms/image", "peak memory, MB")
    lines = [f"image size {size:<9}" + "".join(f"{head:>20}" for head in heads)]
    for side, found in runs.items():
        columns = (
            spread([run.rate for run in found]),
            spread([run.cpu_downloading for run in found]),
            spread([run.cost.wall for run in found]),
            spread([run.cpu for run in found]),
            f"{max(run.cost.peak_memory for run in found) / 1e6:,.0f}",
        )
        lines.append(f"  {side:<18}" + "".join(f"{column:>20}" for column in columns))
    lines.append(f"  {'bare codec':<18}{codec:>20.1f}{1000 * CORES / codec:>20.1f}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """The median, and from the smallest to the largest."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def figures_of(size: int, runs: dict[str, list[Run]], codec: float) -> dict[str, float]:
    """The ratios of one size: medians over the pairs of runs."""
    pairs = list(zip(runs["headwater"], runs["img2dataset"], strict=True))
    found = {
        "ratio": statistics.median(ours.rate / theirs.rate for ours, theirs in pairs),
        "cpu_ratio": statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs),
        "cpu_ratio_downloading": statistics.median(o.cpu_downloading / t.cpu_downloading for o, t in pairs),
        "wall_ratio": statistics.median(theirs.cost.wall / ours.cost.wall for ours, theirs in pairs),
        "share_of_codec": statistics.median(ours.rate for ours, _ in pairs) / codec,
        # What the ratio would be if nothing but the codecs took time.
        "ratio_limit": codec / statistics.median(theirs.rate for _, theirs in pairs),
    }
    return {f"{name}_{size}": round(value, 3) for name, value in found.items()}


def profile(run: Run, files: Sequence[Path], size: int) -> str:
    """Where our time goes: CPU by kind of process, and within decoding by function."""
    lines = [f"where the CPU time of `headwater download` goes at {size}, ms an image:"]
    shares = {kind: 1000 * seconds / run.images for kind, seconds in run.cost.cpu_by_kind.items()}
    lines += [f"  {cpu:8.2f}  {kind}" for kind, cpu in sorted(shares.items(), key=lambda item: -item[1])]
    lines.append("of which `filters.stored.store`, alone in one process:")
    lines += [f"  {cpu:8.2f}  {part}" for part, cpu in store_shares(files, size)]
    return "\n".join(lines)


def benchmark(work: Path, files: Sequence[Path], urls: int, rounds: int, profiled: bool) -> dict[str, float]:
    """Run all; print a table for each size; the figures."""
    figures: dict[str, float] = {}
    with nginx(files[0].parent, work / "nginx") as port:
        prepare(work, port, [file.name for file in files], urls)
        for size in SIZES:
            runs: dict[str, list[Run]] = {side: [] for side in SIDES}
            rates = []
            for _ in range(rounds):
                for side, found in runs.items():
                    found.append(run_side(side, work, size, urls))
                rates.append(codec_rate(files, size, min(urls, 2000)))
            codec = statistics.median(rates)
            print(table(size, runs, codec), flush=True)
            if profiled:
                print(profile(runs["headwater"][-1], files, size))
            figures.update(figures_of(size, runs, codec))
        for command in SIDES.values():
            program, *flags = command(Path(), SIZES[0], urls)
            print(" ".join([Path(program).name, *flags]))
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each size and one JSON line; exit code 0 whether or not the goals are met, or can be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.download", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the addresses, once")
    parser.add_argument("--profile", action="store_true", help="also print where our time goes")
    parser.add_argument("--folder", type=Path, help="where to work, and to keep the pictures (default: temporary)")
    parser.add_argument("--rounds", type=int, help="runs of each side (default: 3, or 1 with --quick)")
    arguments = parser.parse_args(argv)
    try:
        nginx_program()
    except InputError as error:
        # The machine lacks a program, which is no failure of ours: the other benchmarks go on.
        print(f"not measured: {error}")
        print(json.dumps({"benchmark": "download", "figures": {}, "goals": GOALS, "met": dict.fromkeys(GOALS)}))
        return 0
    urls, rounds = (600, 1) if arguments.quick else (6000, 3)
    versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("img2dataset", "headwater", "ray"))
    print(f"{urls:,} addresses, {CORES} cores, load {os.getloadavg()[0]:.1f}, {versions}, ", end="")
    print(f"Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="headwater-benchmark-") as temporary:
        work = (arguments.folder or Path(temporary)).resolve()
        try:
            files = make_pictures(work / "pictures", 64 if arguments.quick else 320)
            figures = benchmark(work, files, urls, arguments.rounds or rounds, arguments.profile)
        except HeadwaterError as error:
            print(f"benchmarks.download: {error}", file=sys.stderr)
            return error.exit_code
    met = {name: figures[name] <= goal if "cpu" in name else figures[name] >= goal for name, goal in GOALS.items()}
    for name, goal in GOALS.items():
        print(f"{name}: {figures[name]:.2f}, goal {goal:.2f}: {'met' if met[name] else 'missed'}")
    print(json.dumps({"benchmark": "download", "figures": figures, "goals": GOALS, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
