"""What the study of near duplicates loses where pictures are searched by pixels in few clusters, as a crowd is.

    python -m demo.study_crowd

The copies that have a goal are searched among the drawings and all icons of the corpus, once completely and once for
each number of probes. Most copies are candidates by their perceptual hash too: what the job loses are the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from demo.corpus import STYLES, load_style
from demo.drawings import load_drawings
from demo.study import copies_of, looks_of, pictures_of, planned
from filters.candidates import near_tangent_pairs
from filters.near import thumbnail
from filters.near_pairs import NearParams, distances
from filters.pixels import RGB, decode

PROBES = (1, 2, 4, 8, 16, 32)


class Crowd(NamedTuple):
    """How many copies are near their originals, and how many of these are found by what.

    `by_pixels` and `by_either` are of the complete search first, then of each number of probes.
    """

    pictures: int
    copies: int
    near: int
    by_hash: int
    by_pixels: list[int]
    by_either: list[int]


def lost_in_crowd(
    probes: Sequence[int], *, drawings: int | None = None, icons: int | None = None, share: float = 1.0
) -> Crowd:
    """Search the copies completely and with each number of `probes`; `drawings` and `icons` limit how many take part.

    `share` is how many copies are made, as in `run_study`.
    """
    images = load_drawings().slice(0, drawings)["image"].to_pylist()
    plan = [job for job in planned(len(images), 0, share) if job[0].goal]
    base, copies = pictures_of(looks_of(images)), pictures_of(copies_of(images, 0, plan))
    original, each = np.array([place for _, place in plan], np.int64), np.arange(len(plan))
    near = distances(copies, each, base, original) <= NearParams().max_distance
    apart = np.bitwise_count(_hashes(copies.table) ^ _hashes(base.table)[original])
    by_hash = near & (apart <= NearParams().hamming_radius)
    crowd = np.concatenate([base.thumbs(np.arange(len(images))), _icons(icons)])
    shown = copies.thumbs(each)

    def search(count: int | None) -> npt.NDArray[np.bool_]:
        pairs = near_tangent_pairs(
            shown.__getitem__, len(shown), crowd.__getitem__, len(crowd), NearParams().tangent_radius, probes=count
        )
        return near & np.isin(each, pairs[pairs[:, 1] == original[pairs[:, 0]], 0])

    masks = [search(count) for count in (None, *probes)]
    return Crowd(
        len(crowd),
        len(plan),
        int(near.sum()),
        int(by_hash.sum()),
        [int(mask.sum()) for mask in masks],
        [int((mask | by_hash).sum()) for mask in masks],
    )


def _hashes(table: pa.Table) -> npt.NDArray[np.uint64]:
    return np.array(table["phash"], np.uint64)


def _icons(limit: int | None) -> RGB:
    """Thumbnails of the corpus's icons, uint8 [N, 64, 64, 3]."""
    images = [image for style in STYLES for image in load_style(style)["image"].to_pylist()][:limit]
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda data: thumbnail(decode(data, max_pixels=10**7).rgb), images)))


def main() -> int:
    """Print a table of what is found."""
    crowd = lost_in_crowd(PROBES)
    print(f"{crowd.copies} copies among {crowd.pictures} pictures; {crowd.near} are near their originals, ", end="")
    print(f"{crowd.by_hash} of them by hash; by pixels, and by either:")
    names = ("complete", *(f"{n} probes" for n in PROBES))
    for name, pixels, either in zip(names, crowd.by_pixels, crowd.by_either, strict=True):
        print(f"{name:>10}  {pixels}  {either}  ({either / crowd.by_either[0]:.2%} of the complete search)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
