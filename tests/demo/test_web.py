"""The demo web answers as planned, over real loopback HTTP, and its process behaves."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from PIL import Image

from demo.pictures import corpus_bytes, cut_out, on_white, render
from demo.plan import make_plan, to_records
from demo.web import WebProcess, _children, start, stop, write_raw
from demo.web_placeholders import FEW_URLS, PLACEHOLDER
from demo.web_record import Record
from demo.web_server import hop_url
from filters.errors import InputError

SEED, ROWS = 5, 300
T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """A running demo web and what was planned for it."""

    root: Path
    process: WebProcess
    records: list[Record]

    def of(self, plant: str) -> list[Record]:
        return [r for r in self.records if r.plant == plant]


class Loopback(AbstractResolver):
    """Every host name is the demo web, as with the downloader's `resolve` override."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=self.port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        return None


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("web")
    process = start(root, SEED, ROWS)
    yield Running(root, process, to_records(make_plan(SEED, ROWS)))
    stop(root)


def with_client(web: Running, work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
    async def run() -> T:
        connector = aiohttp.TCPConnector(resolver=Loopback(web.process.port))
        async with aiohttp.ClientSession(connector=connector) as client:
            return await work(client)

    return asyncio.run(run())


def get(web: Running, url: str, **options: Any) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of one GET."""

    async def work(client: aiohttp.ClientSession) -> tuple[int, bytes, dict[str, str]]:
        async with client.get(url, **options) as response:
            return response.status, await response.read(), {k.lower(): v for k, v in response.headers.items()}

    return with_client(web, work)


@pytest.mark.parametrize(
    "plant",
    ["clean", "exact_duplicate", "near_duplicate", "leak_exact", "leak_reencoded", "swapped_caption", "slow_body",
     "odd_content_type", "opt_out", "redirect", "unbalanced_quote", "nsfw_declared", "video", PLACEHOLDER],
)  # fmt: skip
def test_pictures_arrive_whole(web: Running, plant: str) -> None:
    for record in web.of(plant)[:4]:
        status, body, headers = get(web, record.url)
        data, content_type = render(record)
        assert (status, body) == (200, data)
        assert headers["content-type"] == (record.param if plant == "odd_content_type" else content_type)
        assert headers.get("x-robots-tag") == (record.param if plant == "opt_out" else None)
        Image.open(io.BytesIO(body)).load()


def test_placeholders_are_one_body_under_many_addresses(web: Running) -> None:
    served = {record.url: get(web, record.url)[1:] for record in web.of(PLACEHOLDER)}
    assert len(served) > FEW_URLS
    assert len({body for body, _ in served.values()}) == 1
    assert {headers["content-type"] for _, headers in served.values()} == {"image/png"}


@pytest.mark.parametrize(("plant", "status"), [("http_404", 404), ("http_410", 410), ("http_429", 429)])
def test_permanent_refusals(web: Running, plant: str, status: int) -> None:
    for record in web.of(plant):
        for _ in range(3):
            found, _, headers = get(web, record.url)
            assert found == status
            assert headers.get("retry-after") == ("1" if status == 429 else None)


def test_permanent_server_errors(web: Running) -> None:
    for record in web.of("http_5xx"):
        assert [get(web, record.url)[0] for _ in range(4)] == [int(record.param)] * 4


@pytest.mark.parametrize("plant", ["http_429_then_ok", "http_5xx_then_ok"])
def test_failures_end_within_two_retries(web: Running, plant: str) -> None:
    for record in web.of(plant):
        answers = [get(web, record.url) for _ in range(4)]
        failing = int(record.param) if plant == "http_5xx_then_ok" else 429
        assert [a[0] for a in answers] == [failing] * record.times + [200] * (4 - record.times)
        assert answers[-1][1] == render(record)[0]


def test_redirects_take_the_stated_hops(web: Running) -> None:
    for record in web.of("redirect"):
        for hop in range(record.times):
            status, _, headers = get(web, hop_url(record, hop), allow_redirects=False)
            assert (status, headers["location"]) == (int(record.param), hop_url(record, hop + 1))


def test_redirect_loops_never_end(web: Running) -> None:
    for record in web.of("redirect_loop"):
        with pytest.raises(aiohttp.TooManyRedirects):
            get(web, record.url)


def test_html_and_truncated_bodies_are_no_pictures(web: Running) -> None:
    for record in web.of("html") + web.of("truncated"):
        status, body, headers = get(web, record.url)
        assert status == 200
        assert headers["content-length"] == str(len(body))
        with pytest.raises(OSError, match=r"cannot identify|truncated|broken|decoder|decode"):
            Image.open(io.BytesIO(body)).load()
    assert all(get(web, r.url)[2]["content-type"] == r.param for r in web.of("html"))


def test_short_bodies_end_before_their_stated_length(web: Running) -> None:
    for record in web.of("short_body"):
        with pytest.raises(aiohttp.ClientPayloadError):
            get(web, record.url)


def test_endless_bodies_go_on_after_the_picture(web: Running) -> None:
    async def work(client: aiohttp.ClientSession) -> int:
        async with client.get(web.of("endless_body")[0].url) as response:
            received = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    async for chunk in response.content.iter_any():
                        received += len(chunk)
            return received

    assert with_client(web, work) > len(render(web.of("endless_body")[0])[0])


def test_unknown_addresses_and_other_methods(web: Running) -> None:
    record = web.of("clean")[0]
    assert get(web, record.url + "x")[0] == 404
    assert get(web, "http://nobody.test/robots.txt")[0] == 404

    async def post(client: aiohttp.ClientSession) -> int:
        async with client.post(record.url) as response:
            return response.status

    assert with_client(web, post) == 405


def test_requests_are_logged_by_the_server(web: Running) -> None:
    record = web.of("clean")[1]
    get(web, record.url)
    last = (web.root / "web" / "requests.log").read_text().splitlines()[-1].split("\t")
    seconds, host, path, status = last
    assert float(seconds) > 0
    assert (f"http://{host}{path}", status) == (record.url, "200")


def test_a_second_start_finds_the_first(web: Running) -> None:
    assert start(web.root, SEED, ROWS) == web.process
    published = json.loads((web.root / "web" / "web.json").read_text())
    assert published == {"pid": web.process.pid, "port": web.process.port, "seed": SEED, "rows": ROWS}


def test_process_is_in_a_session_of_its_own_and_stops(tmp_path: Path) -> None:
    process = start(tmp_path, 1, 150)
    assert os.getsid(process.pid) == process.pid
    dumps = {p: p.read_bytes() for p in (tmp_path / "raw").rglob("*") if p.is_file()}
    assert stop(tmp_path)
    assert not stop(tmp_path)
    assert not (tmp_path / "web" / "web.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    write_raw(tmp_path, make_plan(1, 150))
    assert {p: p.read_bytes() for p in (tmp_path / "raw").rglob("*") if p.is_file()} == dumps
    write_raw(tmp_path, make_plan(2, 150))
    assert (tmp_path / "raw" / "ground_truth.parquet").read_bytes() != dumps[
        tmp_path / "raw" / "ground_truth.parquet"
    ]


def test_an_interrupted_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("demo.web._wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, 1, 150)
    process = list(_children.values())[-1]
    assert process.wait(timeout=60) != 0
    assert not (tmp_path / "web" / "web.json").exists()


def test_a_file_of_a_killed_process_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    left = {"pid": 2**22, "port": 1, "seed": 1, "rows": 150}
    (tmp_path / "web" / "web.json").write_text(json.dumps(left))
    assert not stop(tmp_path)


def test_a_web_that_nobody_asks_ends(tmp_path: Path) -> None:
    code = "import sys; from demo import web; web.IDLE_SECONDS = 1; sys.exit(web.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--root", str(tmp_path), "--seed", "1", "--rows", "150"]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0
    assert not (tmp_path / "web" / "web.json").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not written by the demo web"):
        write_raw(tmp_path, make_plan(1, 150))
    assert (tmp_path / "raw" / "notes.txt").read_text() == "mine"


def test_pictures_are_as_planned() -> None:
    """Formats, sizes and modes of what is served; the same record always gives the same bytes."""
    kinds = {"jpeg": "JPEG", "png_rgba": "PNG", "png_palette": "PNG", "webp": "WEBP", "gif": "GIF"}
    modes = {"png_rgba": "RGBA", "png_palette": "P", "gif": "P", "jpeg": "RGB", "webp": "RGB"}
    records = [r for r in to_records(make_plan(9, 600)) if r.plant == "clean"]
    assert {r.format for r in records} == set(kinds)
    for record in records[::4]:
        data, _ = render(record)
        assert data == render(record)[0]
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.mode, image.size) == (
            kinds[record.format], modes[record.format], (record.width, record.height),
        )  # fmt: skip
        assert min(image.size) >= 64
        assert max(image.size) <= (256 if record.layout == "single" else 1200)
        extremes = on_white(image).convert("L").getextrema()
        assert isinstance(extremes[0], int | float)
        assert extremes[1] - extremes[0] > 2, "an icon is to be seen"


def test_duplicates_and_leaks_are_what_they_say() -> None:
    records = to_records(make_plan(9, 600))
    served = {(r.source, r.url): r for r in records if r.plant == "clean"}
    for record in records:
        if record.plant == "leak_exact":
            assert render(record)[0] == corpus_bytes(record.leak_style or "", record.leak_concept or "")
        if record.duplicate_kind is None:
            continue
        original = render(served[record.duplicate_of_source or "", record.duplicate_of_url or ""])[0]
        copy = render(record)[0]
        assert (original == copy) == (record.duplicate_kind == "exact")
        longest = max(record.width, record.height) * (record.near_scale or 1) * (1 - (record.near_crop or 0))
        assert max(Image.open(io.BytesIO(copy)).size) == pytest.approx(longest, abs=2)


def test_cut_out_icons_are_transparent_around_and_solid_inside() -> None:
    icon = cut_out("twemoji", "dog-face")
    assert (icon.mode, icon.size) == ("RGBA", (128, 128))
    assert icon.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert icon.getpixel((64, 64))[3] == 255  # type: ignore[index]
