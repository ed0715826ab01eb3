"""Figures of the source study: what is drawn where, and that it can be told apart without colour."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import norm

from evaluation.accuracies import ModelScores
from evaluation.plot_style import look
from evaluation.robustness import SourceLine
from evaluation.robustness_plots import data_efficiency, figure_png, mixing_overlay, source_panels
from evaluation.shift_study import ShiftStudy, study_shifts
from filters.errors import InputError

SIZES = (1e6, 2.7e6, 5e6, 15e6)


def scores(intercepts: dict[str, float]) -> list[ModelScores]:
    """Three seeds of four sizes of each source, on a line with its own intercept."""
    rng = np.random.default_rng(0)
    found = []
    for source, intercept in intercepts.items():
        for i, size in enumerate(SIZES):
            for seed in range(3):
                z = -1.6 + 0.4 * i + 0.02 * rng.standard_normal()
                y = [float(norm.cdf(0.8 * z + intercept + 0.02 * rng.standard_normal())) for _ in range(2)]
                name = f"{source}-{i}-{seed}"
                found.append(ModelScores(name, source, size, {"val": float(norm.cdf(z)), "r": y[0], "styles": y[1]}))
    return found


@pytest.fixture(scope="module")
def studies() -> list[ShiftStudy]:
    return study_shifts(scores({"yfcc": -0.5, "laion": 0.0, "wit": 0.3}))


def panels(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def marked(ax: Axes) -> list[Any]:
    return [line for line in ax.lines if line.get_marker() not in ("None", "", None)]


def test_p1_has_a_panel_a_shift_with_everything_in_it(studies: list[ShiftStudy]) -> None:
    figure = source_panels(studies)
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["ImageNet-R", "styles"]
    for ax, study in zip(panels(figure), studies, strict=True):
        assert len(marked(ax)) == 3
        for line, source in zip(marked(ax), study.lines, strict=True):
            rows = study.rows(source)
            np.testing.assert_allclose(norm.cdf(line.get_xdata()), study.x[rows])
            np.testing.assert_allclose(norm.cdf(line.get_ydata()), study.y[rows])
        assert len(ax.collections) == 3  # bands
        diagonal = next(line for line in ax.lines if line.get_linestyle() == "--" and line.get_color() == "#8a8a8a")
        np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    dotted = [[line for line in ax.lines if line.get_linestyle() == ":"] for ax in panels(figure)]
    assert [len(lines) for lines in dotted] == [2, 0]  # only R has a published baseline
    inside = dotted[0][1]
    x, y = (np.asarray(data) for data in (inside.get_xdata(), inside.get_ydata()))
    np.testing.assert_allclose(y, 0.6681 * x - 0.8099, atol=1e-4)
    assert labels(figure) == ["yfcc", "laion", "wit", "95 % band", "y = x", "trained on ImageNet (std+low)"]


def test_lines_and_bands_are_those_of_the_sources(studies: list[ShiftStudy]) -> None:
    ax = panels(source_panels(studies))[0]
    for collection, (source, line) in zip(ax.collections, studies[0].lines.items(), strict=True):
        assert isinstance(line, SourceLine), source
        edge = np.asarray(collection.get_paths()[0].vertices)
        inside = edge[(edge[:, 0] > edge[:, 0].min()) & (edge[:, 0] < edge[:, 0].max())]
        fit = line.line.slope * inside[:, 0] + line.line.intercept
        low, high = (norm.ppf(v) for v in line.band(norm.cdf(inside[:, 0])))
        assert ((low <= fit) & (fit <= high)).all()
        assert np.minimum(np.abs(inside[:, 1] - low), np.abs(inside[:, 1] - high)).max() < 1e-6


@pytest.mark.parametrize("axis", ["probit", "logit"])
def test_ticks_are_percentages_at_their_places(axis: Any) -> None:
    found = study_shifts(scores({"yfcc": -0.5}), shifts=["r"], axis=axis)
    ax = panels(source_panels(found))[0]
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    for one in (ax.xaxis, ax.yaxis):
        places, texts = one.get_majorticklocs(), [t.get_text() for t in one.get_majorticklabels()]
        assert len(places) >= 5
        values = np.array([float(text) for text in texts]) / 100
        expected = norm.ppf(values) if axis == "probit" else np.log(values / (1 - values))
        np.testing.assert_allclose(places, expected, atol=1e-9)


def test_sources_differ_without_colour() -> None:
    """Neighbours have another mark and another stroke, and every colour is dark enough on white."""
    seen = [look(i) for i in range(280)]
    assert len(set(seen)) == 280
    for one, other in itertools.pairwise(seen):
        assert one.shape != other.shape and one.stroke != other.stroke
    for style in seen[:7]:
        red, green, blue = to_rgb(style.colour)
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.6


def test_a_source_without_a_line_is_shown_as_points() -> None:
    few = [s for s in scores({"yfcc": 0.0, "wit": 0.2}) if s.source == "yfcc" or (s.size or 0) < 3e6]
    figure = source_panels(study_shifts(few))
    for ax in panels(figure):
        assert len(ax.collections) == 1 and len(marked(ax)) == 2
    wit = next(h for h in figure.legends[0].legend_handles if h is not None and h.get_label() == "wit")
    assert wit.get_linestyle() == "None"  # type: ignore[attr-defined]


def test_p3_puts_an_ensemble_over_its_mixture() -> None:
    found = study_shifts(scores({"a": -0.5, "b": 0.1, "a+b": -0.2, "a+b ensemble": -0.18}))
    figure = mixing_overlay(found, {"a+b": "a+b ensemble"})
    for ax in panels(figure):
        filled, hollow = marked(ax)
        assert hollow.get_markerfacecolor() == "white" != filled.get_markerfacecolor()
        assert filled.get_marker() == hollow.get_marker()
    assert labels(figure)[:4] == ["a", "b", "a+b", "a+b ensemble"]
    with pytest.raises(InputError, match="no source c; there are a, b"):
        mixing_overlay(found, {"a+b": "c"})


def test_p4_is_mean_and_deviation_over_seeds() -> None:
    made = scores({"yfcc": -0.5, "laion": 0.0})
    figure = data_efficiency(made, ["val", "r"])
    assert [ax.get_title(loc="left") for ax in panels(figure)] == ["ImageNet", "ImageNet-R"]
    for ax, name in zip(panels(figure), ("val", "r"), strict=True):
        assert ax.get_xscale() == "log"
        for bars, source in zip(ax.containers, ("yfcc", "laion"), strict=True):
            line, _, (stem,) = bars
            for i, size in enumerate(SIZES):
                values = [100 * s.accuracy[name] for s in made if s.source == source and s.size == size]
                assert (line.get_xdata()[i], line.get_ydata()[i]) == pytest.approx((size, np.mean(values)))
                length = np.ptp(stem.get_segments()[i][:, 1])
                assert length == pytest.approx(2 * np.std(values, ddof=1))
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["1M", "2.7M", "5M", "15M"]


def test_png_is_a_picture_and_always_the_same(studies: list[ShiftStudy]) -> None:
    data = figure_png(source_panels(studies))
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert picture.shape[1] > 1000 and picture.std() > 5
    assert data == figure_png(source_panels(studies))


def test_accuracies_of_zero_and_one_have_a_place() -> None:
    made = [*scores({"yfcc": 0.0}), ModelScores("none", "yfcc", 1e6, {"val": 0.0, "r": 1.0}, {"val": 100, "r": 100})]
    ax = panels(source_panels(study_shifts(made, shifts=["r"])))[0]
    assert np.isfinite(ax.get_xlim()).all() and np.isfinite(ax.get_ylim()).all()


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no shift to draw"):
        source_panels([])
    with pytest.raises(InputError, match="known number of training samples"):
        data_efficiency([ModelScores("m", "s", None, {"val": 0.5})], ["val"])
