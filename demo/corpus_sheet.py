"""Contact sheet of near-duplicate candidates: `python -m demo.corpus_sheet --out DIR`.

A tool for whoever rebuilds the corpus. It lays out the pairs of pictures that may be near duplicates, closest
first, as they look at 64 px after JPEG quality 75; the pairs that a person confirms go to
`demo/corpus/confirmed_near.csv`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from demo.corpus import STYLES, load_style
from demo.corpus_render import decode

Floats = npt.NDArray[np.float32]

# Wide enough that by far the most candidates are not duplicates: a person cuts, not a threshold.
MAX_DISTANCE = 14.0
MAX_FITTED_DISTANCE = 20.0
MAX_BOX_RATIO = 1.12
MAX_BOX_SHIFT = 12


def main(argv: list[str] | None = None) -> None:
    """Write the sheets as `sheet-000.png`, ... into the folder `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.corpus_sheet", description="Lay out near-duplicate candidates."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the sheets")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    names, pictures = [], []
    for style in STYLES:
        table = load_style(style)
        names += [f"{style} {concept}" for concept in table["concept"].to_pylist()]
        pictures += [decode(image) for image in table["image"].to_pylist()]
    pairs = candidates(pictures)
    for start in range(0, len(pairs), 108):
        draw_sheet(pairs[start : start + 108], names, pictures).save(out / f"sheet-{start // 108:03d}.png")


def candidates(pictures: list[Image.Image]) -> list[tuple[int, int]]:
    """Pairs of indices of pictures that may be near duplicates, closest first; equal pixels are left out.

    Two pictures are candidates when they are near as they stand (root mean square difference of 32x32 thumbnails
    below `MAX_DISTANCE` of 255), or near after both are cropped to what is drawn on them, if these boxes have nearly
    the same place and size. The order is by distance over the fainter picture's contrast to white.
    """
    boxes = np.array([_drawn_box(picture) for picture in pictures])
    plain = np.stack([_thumbnail(picture) for picture in pictures])
    fitted = np.stack([_thumbnail(picture.crop(_drawn_box(picture))) for picture in pictures])
    contrast = np.sqrt(((255 - plain) ** 2).mean(axis=1))
    sides = boxes[:, 2:] - boxes[:, :2]
    found: list[tuple[float, int, int]] = []
    for i in range(len(pictures) - 1):
        rest = slice(i + 1, None)
        distance = np.sqrt(((plain[rest] - plain[i]) ** 2).mean(axis=1))
        distance_fitted = np.sqrt(((fitted[rest] - fitted[i]) ** 2).mean(axis=1))
        ratio = np.maximum(sides[rest] / sides[i], sides[i] / sides[rest]).max(axis=1)
        shift = np.abs(boxes[rest] - boxes[i]).max(axis=1)
        alike = (distance_fitted < MAX_FITTED_DISTANCE) & (ratio < MAX_BOX_RATIO) & (shift < MAX_BOX_SHIFT)
        closest = np.minimum(distance, np.where(alike, distance_fitted, np.inf))
        for j in np.flatnonzero((distance < MAX_DISTANCE) | alike):
            other = i + 1 + int(j)
            if pictures[i].tobytes() != pictures[other].tobytes():
                found.append((float(closest[j] / max(1.0, min(contrast[i], contrast[other]))), i, other))
    return [(a, b) for _, a, b in sorted(found)]


def draw_sheet(pairs: list[tuple[int, int]], names: list[str], pictures: list[Image.Image]) -> Image.Image:
    """Draw pairs side by side, nine to a row, with their names."""
    rows = -(-len(pairs) // 9)
    sheet = Image.new("RGB", (9 * 136, rows * 90), "white")
    draw = ImageDraw.Draw(sheet)
    for position, (a, b) in enumerate(pairs):
        x, y = position % 9 * 136, position // 9 * 90
        for offset, index in ((0, a), (1, b)):
            sheet.paste(_as_small_jpeg(pictures[index]), (x + 64 * offset, y))
            draw.text((x, y + 65 + 11 * offset), names[index][-22:], fill="black")
    return sheet


def _drawn_box(picture: Image.Image) -> tuple[int, int, int, int]:
    """The box of all pixels that are not nearly white; the whole picture when it is blank."""
    drawn = Image.fromarray((np.asarray(picture).min(axis=2) < 243).astype(np.uint8))
    return drawn.getbbox() or (0, 0, *picture.size)


def _thumbnail(picture: Image.Image) -> Floats:
    return np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float32).ravel()


def _as_small_jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.resize((64, 64), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


if __name__ == "__main__":
    main()
