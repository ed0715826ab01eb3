"""What the codecs alone cost: decoding, shrinking and encoding a picture as a download does, and nothing else."""

from __future__ import annotations

import cProfile
import multiprocessing
import os
import pstats
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from unittest import mock

import simplejpeg

from filters.fast import decode_scaled, decode_webp, encode_jpeg
from filters.pixels import RGB, decode
from filters.resize import scaled_size, shrink
from filters.stored import Recipe, store
from pipelines.sandbox import ENVIRONMENT

QUALITY, MAX_PIXELS = 95, 50_000_000


def pixels(data: bytes, image_size: int) -> tuple[RGB, tuple[int, int]]:
    """A picture as a download decodes it, uint8 [h, w, 3], and the (height, width) to shrink it to."""
    if data.startswith(b"\xff\xd8"):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        target = scaled_size((height, width), image_size, "keep_ratio")
        scaled = decode_scaled(data, (height, width), (2 * target[0], 2 * target[1]))
        if scaled is not None:
            return scaled, target
    rgb = decode_webp(data) if data.startswith(b"RIFF") else None
    rgb = decode(data, max_pixels=MAX_PIXELS).rgb if rgb is None else rgb
    return rgb, scaled_size(rgb.shape[:2], image_size, "keep_ratio")


def codec_rate(files: Sequence[Path], image_size: int, images: int) -> float:
    """Pictures a second that one process a core decodes, shrinks and encodes, all bytes in memory."""
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    ready, done = context.Barrier(cores + 1), context.Barrier(cores + 1)
    workers = [
        context.Process(target=_work, args=(files, image_size, images // cores, ready, done)) for _ in range(cores)
    ]
    # With the settings of the processes that decode in a download, so that the limit is one.
    with mock.patch.dict(os.environ, ENVIRONMENT):
        for worker in workers:
            worker.start()
    ready.wait()
    start = time.monotonic()
    done.wait()
    seconds = time.monotonic() - start
    for worker in workers:
        worker.join()
    return images // cores * cores / seconds


def _work(files: Sequence[Path], image_size: int, images: int, ready: Barrier, done: Barrier) -> None:
    bodies = [file.read_bytes() for file in files]
    ready.wait()
    for number in range(images):
        rgb, target = pixels(bodies[number % len(bodies)], image_size)
        encode_jpeg(shrink(rgb, target), QUALITY)
    done.wait()


def store_shares(files: Sequence[Path], image_size: int, shown: int = 10) -> list[tuple[str, float]]:
    """CPU milliseconds a picture of all that `filters.stored.store` does, then of its slowest functions."""
    recipe = Recipe(image_size=image_size, resize_mode="keep_ratio", encode_quality=QUALITY)
    bodies = [file.read_bytes() for file in files]
    store(bodies[0], recipe)
    start = time.process_time()
    for body in bodies:
        store(body, recipe)
    whole = time.process_time() - start
    profile = cProfile.Profile()
    profile.enable()
    for body in bodies:
        store(body, recipe)
    profile.disable()
    found = pstats.Stats(profile).get_stats_profile().func_profiles
    slowest = sorted(found.items(), key=lambda item: -item[1].tottime)[:shown]
    parts = [("all of it", whole), *((f"  {name}", part.tottime) for name, part in slowest)]
    return [(name, 1000 * seconds / len(bodies)) for name, seconds in parts]
