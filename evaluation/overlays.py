"""A pair with its attribution as one picture: where in the picture, and in which words, the match is found.

Left the picture as the model sees it, right the same in grey under its map, below the caption with each token shaded
by the same scale. Darker is more, so that it can be read without colours too.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from open_clip.tokenizer import SimpleTokenizer

from filters.errors import InputError

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.floating[Any]]
# White over orange to nearly black: lightness falls all the way.
SCALE = LinearSegmentedColormap.from_list("match", ["#ffffff", "#fdd49e", "#f08a4b", "#c63a1e", "#6d0c0c"])
_INK, _FAINT = "#1c1c1c", "#6a6a6a"
# Looked for in this order; the first comes with matplotlib, the others hold what it does not.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "Arial Unicode MS",
    "Noto Sans",
)
_BOX = "\u25a1"  # in place of a character that no font has
_WIDTH, _SIDE, _LINE = 7.2, 3.2, 0.36  # inches: of the picture, of its panels, of a line of the caption


class Piece(NamedTuple):
    """A token of a caption as people read it, its value in 0 to 1, and whether it continues the word before it."""

    text: str
    value: float
    joined: bool = False


def pieces(tokenizer: Any, tokens: Sequence[int], values: Sequence[float]) -> list[Piece]:
    """The `tokens` of a caption that carry its words, as text.

    Tokens that are only together a character become one piece, of the highest of their values.
    """
    found: list[Piece] = []
    if not isinstance(tokenizer, SimpleTokenizer):
        inner = getattr(tokenizer, "tokenizer", tokenizer)
        return [Piece(_line(inner.decode([token])), value) for token, value in zip(tokens, values, strict=True)]
    waiting, highest, joined = b"", 0.0, False
    for token, value in zip(tokens, values, strict=True):
        coded = tokenizer.decoder[token]
        ends = coded.endswith("</w>")
        waiting += bytes(tokenizer.byte_decoder[sign] for sign in coded.removesuffix("</w>"))
        highest = max(highest, value)
        text = _decoded(waiting, whole=not ends)
        if text is not None:
            found.append(Piece(_line(text), highest, joined))
            waiting, highest = b"", 0.0
            joined = True
        joined = joined and not ends
    if waiting:  # a caption that was cut within a character
        found.append(Piece(_line(waiting.decode("utf-8", errors="replace")), highest, joined))
    return found


def _decoded(data: bytes, *, whole: bool) -> str | None:
    """`data` as text; where it is part of a character, None, or its place taken if no more is to come."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None if whole else data.decode("utf-8", errors="replace")


def rescaled(values: Map) -> Map:
    """Values with the lowest at 0 and the highest at 1; zeros if they are all equal."""
    low, high = float(values.min(initial=1.0)), float(values.max(initial=0.0))
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def overlay(pixels: Pixels, shown: Map) -> Pixels:
    """A picture in pale grey, uint8 [H, W, 3], under its map [H, W] in 0 to 1."""
    if shown.shape != pixels.shape[:2]:
        raise InputError(
            f"the map is {list(shown.shape)} and its picture {list(pixels.shape[:2])}; they must be alike"
        )
    light = pixels.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    # The picture's lights and shades stay visible under the darkest colour, and are fainter than the scale.
    light = (0.5 + 0.5 * light)[..., None]
    share = np.clip(1.5 * shown, 0, 1)[..., None]
    colours = 255 * (1 - share) + 255 * SCALE(shown)[..., :3] * share
    result: Pixels = (light * colours).round().astype(np.uint8)
    return result


def pair_png(
    pixels: Pixels, shown: Map, caption: Sequence[Piece], *, cosine: float, title: str = "", dpi: int = 110
) -> bytes:
    """The picture of a pair, PNG: `pixels` uint8 [H, W, 3] as the model sees them, its map [H, W], its caption.

    `cosine` is the match, `title` says which pair it is.
    """
    both = overlay(pixels, shown)
    with matplotlib.rc_context({"font.family": list(_fonts()), "text.parse_math": False}):
        lines = list(_lines([piece._replace(text=_drawable(piece.text)) for piece in caption]))
        height = _SIDE * min(1.6, max(0.5, pixels.shape[0] / pixels.shape[1])) + 1.55 + _LINE * len(lines)
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasAgg(figure)
        top = height - 0.42
        figure.text(0.25 / _WIDTH, top / height, _drawable(title), fontsize=10, color=_INK, weight="bold")
        figure.text(
            1 - 0.25 / _WIDTH, top / height, f"cosine of picture and caption {cosine:.2f}", fontsize=10, ha="right",
            color=_INK,
        )  # fmt: skip
        bottom = 1.0 + _LINE * len(lines)
        for column, (image, label) in enumerate(
            ((pixels, "as the model sees it"), (both, "where the match is found"))
        ):
            _panel(figure, image, label, 0.25 + column * (_WIDTH / 2 - 0.1), bottom, top - 0.4 - bottom)
        _words(figure, lines, bottom - 0.32)
        _scale(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _panel(figure: Figure, image: Pixels, label: str, left: float, bottom: float, height: float) -> None:
    """One of the two pictures; lengths in inches."""
    wide, high = _WIDTH / 2 - 0.4, figure.get_figheight()
    axes = figure.add_axes((left / _WIDTH, bottom / high, wide / _WIDTH, height / high))
    axes.imshow(image, interpolation="nearest", aspect="equal")
    axes.set_title(label, fontsize=9.5, color=_FAINT, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")


def _lines(caption: Sequence[Piece]) -> Iterator[list[tuple[Piece, float, float]]]:
    """Lines of pieces, each with its left edge and width in inches."""
    line: list[tuple[Piece, float, float]] = []
    left, limit = 0.25, _WIDTH - 0.25
    for number, piece in enumerate(caption):
        width = _text_width(piece.text) + 0.1
        gap = 0.0 if not line else 0.02 if piece.joined else 0.13
        # A word that is cut into pieces goes to the next line as a whole, where it fits into one.
        rest = width + sum(_text_width(p.text) + 0.12 for p in _same_word(caption[number + 1 :]))
        if line and left + gap + (width if piece.joined else min(rest, limit - 0.3)) > limit:
            yield line
            line, left, gap = [], 0.25, 0.0
        line.append((piece, left + gap, width))
        left += gap + width
    if line:
        yield line


def _same_word(following: Sequence[Piece]) -> Iterator[Piece]:
    for piece in following:
        if not piece.joined:
            return
        yield piece


def _words(figure: Figure, lines: Sequence[Sequence[tuple[Piece, float, float]]], top: float) -> None:
    """The caption, its first line `top` inches above the lower edge; each piece on a ground of its value's colour."""
    high = figure.get_figheight()
    for number, line in enumerate(lines):
        base = top - _LINE * (number + 1) + 0.06
        for piece, left, width in line:
            colour = SCALE(piece.value)
            figure.add_artist(Rectangle(
                (left / _WIDTH, base / high), width / _WIDTH, 0.29 / high, facecolor=colour, edgecolor="#d8d8d8",
                linewidth=0.6, transform=figure.transFigure,
            ))  # fmt: skip
            dark = float(np.dot(colour[:3], (0.299, 0.587, 0.114))) < 0.55
            figure.text(
                (left + width / 2) / _WIDTH, (base + 0.134) / high, piece.text, ha="center", va="center",
                fontsize=12, color="white" if dark else _INK,
            )  # fmt: skip


def _scale(figure: Figure) -> None:
    """The legend at the lower edge."""
    high = figure.get_figheight()
    axes = figure.add_axes((0.37, 0.3 / high, 0.26, 0.13 / high))
    bar = figure.colorbar(ScalarMappable(cmap=SCALE), cax=axes, orientation="horizontal")
    bar.set_ticks([])
    bar.outline.set_edgecolor("#bbbbbb")
    middle = 0.365 / high
    figure.text(0.36, middle, "adds nothing to the match", ha="right", va="center", fontsize=9, color=_FAINT)
    figure.text(0.64, middle, "the match rests on it", ha="left", va="center", fontsize=9, color=_FAINT)


@functools.lru_cache(maxsize=4096)
def _text_width(text: str) -> float:
    """Inches that a text of 12 points takes."""
    figure = Figure(figsize=(1, 1), dpi=72)
    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    drawn = figure.text(0, 0, text, fontsize=12, parse_math=False, family=list(_fonts()))
    return float(drawn.get_window_extent(renderer).width) / 72


@functools.cache
def _fonts() -> tuple[str, ...]:
    """Those fonts that are installed."""
    there = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    return tuple(name for name in _FONTS if name in there)


@functools.cache
def _characters() -> frozenset[int]:
    """Code points that one of them has."""
    files = [findfont(FontProperties(family=name)) for name in _fonts()]
    return frozenset(code for file in files for code in get_font(file).get_charmap())


def _drawable(text: str) -> str:
    return "".join(sign if ord(sign) in _characters() else _BOX for sign in text)


def _line(text: str) -> str:
    """Without breaks and control characters; something to see where nothing is left."""
    return "".join(sign for sign in " ".join(text.split()) if sign.isprintable()) or "\u2423"
