"""JPEG decoded at a reduced scale and shrunk by the fast area average, against whole decoding and the exact one.

    python -m benchmarks.scaled_decode [--quick]

Pictures of several kinds, of 0.3 to 4 megapixels. The goals are about likeness: PSNR of the shrunk pictures at least
40 dB in the median and 35 dB at the 5th percentile. Times are CPU times, both sides in turn.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from benchmarks.drawings import KINDS, draw
from filters.fast import decode_scaled
from filters.pixels import RGB
from filters.resize import Size, scaled_size, shrink

SIDES: tuple[Size, ...] = ((480, 640), (1050, 700), (810, 1440), (1061, 1414), (1600, 1200), (1730, 2300))
GOALS = {"psnr_median": 40.0, "psnr_p5": 35.0}
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One picture at one target: PSNR in dB, whether less than the whole was decoded, CPU seconds of both ways."""

    kind: str
    image_size: int
    psnr: float
    reduced: bool
    ours: float
    usual: float


def measured(kind: str, size: Size, image_size: int, seed: int) -> Case:
    """A picture of `kind` and `size` (height, width), its shorter side shrunk to `image_size`."""
    out = io.BytesIO()
    image = Image.fromarray(draw(kind, *size, seed))
    image.save(out, "JPEG", quality=(80, 88, 95)[seed % 3], subsampling=0 if seed % 4 == 3 else 2)
    data = out.getvalue()
    target = scaled_size(size, image_size, "keep_ratio")

    def ours() -> tuple[RGB, bool]:
        rgb = decode_scaled(data, size, (2 * target[0], 2 * target[1]))
        if rgb is None:
            raise ValueError(f"{kind}: the decoder does not know what to make of it")
        return shrink(rgb, target), rgb.shape[:2] != size

    def usual() -> RGB:
        return shrink(simplejpeg.decode_jpeg(data, "RGB"), target, exact=True)

    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for side, work in enumerate((ours, usual)):
            start = time.process_time()
            work()
            times[side].append(time.process_time() - start)
    mine, reduced = ours()
    return Case(kind, image_size, cv2.PSNR(mine, usual()), reduced, min(times[0]), min(times[1]))


def row(name: str, cases: Sequence[Case]) -> str:
    """One line of the table."""
    psnr = np.array([case.psnr for case in cases])
    speed = sum(case.usual for case in cases) / sum(case.ours for case in cases)
    reduced = np.mean([case.reduced for case in cases])
    low, median = np.percentile(psnr, 5), np.median(psnr)
    return f"{name:22s}{len(cases):6d}{reduced:9.0%}{median:9.1f}{low:9.1f}{psnr.min():9.1f}{speed:8.2f}"


def figures_of(cases: Sequence[Case]) -> dict[str, float]:
    """The figures of the last line."""
    psnr: npt.NDArray[np.float64] = np.array([case.psnr for case in cases])
    figures = {"psnr_median": np.median(psnr), "psnr_p5": np.percentile(psnr, 5), "psnr_min": psnr.min()}
    for size in sorted({case.image_size for case in cases}):
        mine = [case for case in cases if case.image_size == size]
        figures[f"speed_{size}"] = sum(case.usual for case in mine) / sum(case.ours for case in mine)
    return {name: round(float(value), 2) for name, value in figures.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaled_decode", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one picture of each kind and size instead of four")
    seeds = range(1 if parser.parse_args(argv).quick else 4)
    cases = [
        measured(kind, size, image_size, seed)
        for kind in KINDS
        for size in SIDES
        for seed in seeds
        for image_size in (256, 512)
        if min(size) > image_size
    ]
    print(f"OpenCV {cv2.__version__}, Python {platform.python_version()}; PSNR in dB, speed against the usual way")
    print(f"{'':22s}{'cases':>6s}{'reduced':>9s}{'median':>9s}{'5 %':>9s}{'least':>9s}{'speed':>8s}")
    for kind in KINDS:
        print(row(kind, [case for case in cases if case.kind == kind]))
    for image_size in (256, 512):
        print(row(f"all, to {image_size}", [case for case in cases if case.image_size == image_size]))
    print(row("all", cases))
    figures = figures_of(cases)
    met = {name: figures[name] >= goal for name, goal in GOALS.items()}
    print(json.dumps({"benchmark": "scaled_decode", "figures": figures, "goals": GOALS, "met": met}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
