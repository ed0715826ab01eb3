"""Pictures like those of the web, made from a seed, and nginx on loopback that serves each under many addresses."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from filters.errors import InputError

# Loopback addresses that stand for hosts: Linux answers on all of 127.0.0.0/8.
HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 17))
SHAPES = ((4, 3), (3, 2), (16, 9), (1, 1), (3, 4), (2, 3))
# One progressive JPEG, one PNG and one WebP in 16 pictures.
KINDS = ("jpg",) * 6 + ("progressive",) + ("jpg",) * 4 + ("png",) + ("jpg",) * 3 + ("webp",)
CONFIG = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log warn; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 120s;
  types {{ image/jpeg jpg; image/png png; image/webp webp; }}
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  server {{ {listen} root {pictures}; location / {{ rewrite ^/[0-9]+/(.+)$ /$1 break; }} }}
}}
"""


def picture(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A photo-like picture, uint8 (height, width, 3): noise of all scales over a gradient, shapes, and grain.

    The noise falls with frequency about as natural images do, so that files are as large as a camera's.
    """
    slope = rng.uniform(-60, 60, (2, 3))
    rows, columns = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
    canvas = (rng.uniform(80, 170, 3) + rows * slope[0] + columns * slope[1]).astype(np.float32)
    for _ in range(12):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, width // 5)), int(rng.integers(8, height // 5)))
        color = tuple(rng.uniform(0, 255, 3).tolist())
        cv2.ellipse(canvas, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
    for power in range(1, 8):
        step = 2**power
        coarse = rng.standard_normal((height // step + 2, width // step + 2), dtype=np.float32)
        noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        canvas += (noise * 3.2 * step**0.45)[:, :, None]
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * 3.5
    return np.asarray(canvas.clip(0, 255), dtype=np.uint8)


def encoded(rng: np.random.Generator, kind: str, pixels: npt.NDArray[np.uint8]) -> bytes:
    """One picture's file: JPEGs at web qualities with a camera's EXIF, WebP at 80, PNG as drawings are."""
    out, image = io.BytesIO(), Image.fromarray(pixels)
    if kind == "png":
        # A photograph as PNG is rare; a picture of few colours is the usual case.
        image.quantize(32, dither=Image.Dither.NONE).convert("RGB").save(out, "PNG")
    elif kind == "webp":
        image.save(out, "WEBP", quality=80, method=1)
    else:
        exif = Image.Exif()
        exif.update({0x010F: "Headwater", 0x0110: "Seeded camera", 0x0132: "2026:01:01 12:00:00", 0x0112: 1})
        quality = int(rng.integers(80, 93))
        image.save(out, "JPEG", quality=quality, progressive=kind == "progressive", exif=exif.tobytes())
    return out.getvalue()


def make_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write `count` pictures of 0.3 to 4 megapixels, log-uniform (PNG: up to 1); the files, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        rng, kind = np.random.default_rng([seed, number]), KINDS[number % len(KINDS)]
        pixels = 1e6 * np.exp(rng.uniform(np.log(0.3), np.log(1.0 if kind == "png" else 4.0)))
        across, down = SHAPES[int(rng.integers(len(SHAPES)))]
        scale = np.sqrt(pixels / (across * down))
        file = folder / f"{number:04d}.{'jpg' if kind == 'progressive' else kind}"
        if not file.exists():
            file.write_bytes(encoded(rng, kind, picture(rng, round(across * scale), round(down * scale))))
        files.append(file)
    return files


def nginx_program() -> str:
    """Where nginx is; InputError if it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        raise InputError("nginx is not installed: this benchmark needs a compiled server (apt-get install nginx)")
    return program


@contextlib.contextmanager
def nginx(pictures: Path, work: Path) -> Iterator[int]:
    """nginx on all `HOSTS`, serving PICTURES/NAME as /N/NAME for any number N; yields its port, then stops it."""
    work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind((HOSTS[0], 0))
        port = int(probe.getsockname()[1])
    listen = " ".join(f"listen {host}:{port};" for host in HOSTS)
    # Started as root, nginx would read the files as a user who may not.
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(CONFIG.format(work=work, pictures=pictures, listen=listen, user=user), encoding="utf-8")
    process = subprocess.Popen([nginx_program(), "-c", str(config), "-e", str(work / "nginx.log")])
    try:
        _wait_until_open(process, port)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once the server accepts connections; InputError if it ended or did not within 10 seconds."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((HOSTS[-1], port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise InputError("nginx did not start; its own message above says why")
