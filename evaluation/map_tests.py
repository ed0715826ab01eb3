"""Do maps find what is known to decide: figures with intervals, and the pictures as one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional

from evaluation.attribution_metrics import Box, intersection_over_union, on_target
from evaluation.m2ib import unit_range
from evaluation.metrics import bootstrap_interval, clopper_pearson
from evaluation.overlays import Map, overlay
from evaluation.plot_style import INK, figure_png
from evaluation.report_data import MapLine, Measured

Pixels = npt.NDArray[np.uint8]


def map_line(
    label: str, maps: torch.Tensor, targets: torch.Tensor, *, seed: int = 0, first: torch.Tensor | None = None
) -> MapLine:
    """Pointing game and IoU of maps [P, H, W] with their targets (bool [P, H, W]), with 95 % intervals.

    Those are Clopper and Pearson's for the share of peaks, and a bootstrap over pictures, from `seed`, for the mean
    IoU of what is above 0.5 and for how many more peaks of the `first` maps of the same pictures are on their target.
    Maps of texts are [P, 1, L].
    """
    hits, overlaps = on_target(maps, targets).double().numpy(), intersection_over_union(maps, targets)
    pointing = clopper_pearson(float(hits.sum()), len(hits))
    more = None if first is None else on_target(first, targets).double().numpy() - hits
    return MapLine(
        label, len(maps), Measured(float(hits.mean()), *pointing), _mean(overlaps, seed),
        None if more is None else _mean(more, seed),
    )  # fmt: skip


def _mean(values: npt.NDArray[np.float64], seed: int) -> Measured:
    return Measured(float(values.mean()), *bootstrap_interval(values, seed))


def random_maps(count: int, grid: tuple[int, int], size: tuple[int, int], seed: int) -> torch.Tensor:
    """Maps [count, *size] in 0 to 1 that know nothing: uniform numbers on `grid`, enlarged as M2IB's are."""
    drawn = torch.rand(count, 1, *grid, generator=torch.Generator().manual_seed(seed))
    large = functional.interpolate(drawn, size, mode="bilinear", align_corners=False)
    return unit_range(large.flatten(1)).view(count, *size)


def examples_png(pictures: Sequence[Pixels], rows: Sequence[tuple[Sequence[str], Sequence[Box], Map]]) -> bytes:
    """Pictures uint8 [H, W, 3] in a row, and below it one for each of `rows`: captions, boxes, and maps [P, H, W]."""
    count = len(pictures)
    figure = Figure(figsize=(1.7 * count, 1.7 + 2 * len(rows)))
    panels = figure.subplots(1 + len(rows), count, squeeze=False)
    for ax, pixels in zip(panels[0], pictures, strict=True):
        ax.imshow(pixels, interpolation="nearest")
    for line, (captions, boxes, maps) in zip(panels[1:], rows, strict=True):
        for ax, pixels, caption, box, shown in zip(line, pictures, captions, boxes, maps, strict=True):
            ax.imshow(overlay(pixels, shown), interpolation="nearest")
            left, top, right, bottom = box
            corner = (left - 0.5, top - 0.5)
            ax.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=INK, linewidth=1.4))
            ax.set_title(textwrap.fill(caption, 24), fontsize=8.5, color=INK, pad=3, parse_math=False)
    for ax in panels.ravel():
        ax.set_axis_off()
    figure.tight_layout(pad=0.4)
    return figure_png(figure, 110)
