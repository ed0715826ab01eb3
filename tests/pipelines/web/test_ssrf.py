"""Nothing private is ever asked for: by its URL, a redirect, robots.txt, or a name that changes its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohappyeyeballs
import pytest

from pipelines.web.config import FetchConfig
from pipelines.web.fetch import Fetched
from tests.pipelines.chain import picture_server
from tests.pipelines.web.dns import DnsFixture, dns
from tests.pipelines.web.fetching import fetched
from tests.pipelines.web.spellings import PRIVATE_HOSTS

__all__ = ["dns"]

PUBLIC = "93.184.216.34"


def fetch(urls: Sequence[str], **settings: Any) -> list[Fetched]:
    """What the fetcher makes of each URL, without limits of hosts and without waiting."""
    values = {"robots": False, "backoff": 0.0, "limit": {"rate": None, "concurrency": 4}, **settings}
    return fetched(urls, FetchConfig.model_validate(values))


def port_of(server: Any) -> int:
    return int(server.server_address[1])


def test_no_spelling_of_a_private_host_is_asked_for() -> None:
    """The server listens on loopback, so that every one that slipped through would be seen."""
    with picture_server() as server:
        results = fetch([f"http://{host}:{port_of(server)}/1.png" for host in PRIVATE_HOSTS])
    assert {result.reason for result in results} == {"private_address"}
    assert not any(result.redirected for result in results)
    assert server.seen == []
    assert len(PRIVATE_HOSTS) >= 40


def test_no_redirect_leads_there() -> None:
    with picture_server() as server:
        for number, host in enumerate(PRIVATE_HOSTS):
            target = f"http://{host}:{port_of(server)}/secret.png".replace("\t", "")
            server.faults[f"/{number}.png"] = [(302, {"Location": target.encode().decode("latin-1")}, b"")]
        urls = [f"http://pictures.test/{number}.png" for number in range(len(PRIVATE_HOSTS))]
        results = fetch(urls, resolve=server.resolve)
    assert {result.reason for result in results} == {"private_address"}
    assert all(result.redirected for result in results)
    assert sorted(server.seen) == sorted(url.removeprefix("http://pictures.test") for url in urls)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_out_of_http_or_into_credentials(status: int) -> None:
    places = [
        "file:///etc/passwd",
        "gopher://a.test/",
        "ftp://a.test/x",
        "http://me:secret@a.test/",
        "//me@a.test/",
        "",
    ]
    with picture_server() as server:
        for number, place in enumerate(places):
            server.faults[f"/{number}.png"] = [(status, {"Location": place}, b"")]
        results = fetch(
            [f"http://b.test/{n}.png" for n in range(len(places))], resolve=server.resolve, max_redirects=1
        )
    assert {result.reason for result in results} <= {"bad_url", "redirects"}
    assert {path for path in server.seen if not path.endswith(".png")} == set()


def test_a_redirect_of_a_redirect_is_judged_as_well() -> None:
    with picture_server() as server:
        server.faults["/1.png"] = [(302, {"Location": "http://b.test/2.png"}, b"")]
        server.faults["/2.png"] = [(302, {"Location": f"//localhost:{port_of(server)}/3.png"}, b"")]
        (result,) = fetch(["http://a.test/1.png"], resolve=server.resolve)
    assert (result.reason, result.redirected) == ("private_address", True)
    assert server.seen == ["/1.png", "/2.png"]


def test_a_robots_txt_that_redirects_inside_is_not_followed() -> None:
    with picture_server() as server:
        server.faults["/robots.txt"] = [(302, {"Location": f"http://127.0.0.1:{port_of(server)}/secret.txt"}, b"")]
        server.faults["/secret.txt"] = [(200, {}, b"User-agent: *\nDisallow: /\n")]
        fetch(["http://a.test/1.png"], resolve=server.resolve, robots=True)
    assert "/secret.txt" not in server.seen


def test_a_public_name_with_private_addresses_is_refused(dns: DnsFixture) -> None:
    """As `127.0.0.1.nip.io` and the like have: the text of the URL shows nothing."""
    addresses = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1"]
    fake = dns({f"n{number}.example": [[address]] for number, address in enumerate(addresses)})
    with picture_server() as server:
        urls = [f"http://n{number}.example:{port_of(server)}/1.png" for number in range(len(addresses))]
        direct = fetch(urls)
        for number, url in enumerate(urls):
            server.faults[f"/{number}.png"] = [(302, {"Location": url}, b"")]
        led = fetch([f"http://a.test/{number}.png" for number in range(len(urls))], resolve=server.resolve)
    assert {result.reason for result in [*direct, *led]} == {"private_address"}
    assert all(result.redirected for result in led)
    assert "/1.png" not in server.seen[len(urls) :]
    assert len(server.seen) == len(urls)
    assert sum(fake.asked.values()) == 2 * len(urls)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the network: lists the addresses to which connections are opened, and opens none."""
    addresses: list[str] = []

    async def refuse(addr_infos: Sequence[Any], **_: object) -> None:
        addresses.extend(info[4][0] for info in addr_infos)
        raise OSError("no network in this test")

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", refuse)
    return addresses


@pytest.mark.parametrize("inside", ["127.0.0.1", "::1", "169.254.169.254"])
def test_a_name_that_changes_its_answer_gains_nothing(dns: DnsFixture, opened: list[str], inside: str) -> None:
    """Rebinding: public for the check, private for whoever looks again. Retries and further URLs included."""
    fake = dns({"rebind.example": [[PUBLIC], [inside]]})
    urls = [f"http://rebind.example:8080/{number}.png" for number in range(5)]
    results = fetch(urls, retries=2)
    assert {result.reason for result in results} == {"connection"}
    assert set(opened) == {PUBLIC}
    assert len(opened) == 3 * len(urls)
    assert fake.asked == {"rebind.example": 1}


def test_of_a_mixed_answer_only_the_public_part_is_connected_to(dns: DnsFixture, opened: list[str]) -> None:
    dns({"mixed.example": [["127.0.0.1", PUBLIC, "::1", "2606:4700::1111", "10.0.0.1"]]})
    fetch(["http://mixed.example/1.png"], retries=0)
    assert set(opened) == {PUBLIC, "2606:4700::1111"}


def test_a_name_that_changes_its_answer_after_it_was_forgotten_is_judged_anew(
    dns: DnsFixture, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.web.addresses.KNOWN_FOR", 0.0)
    fake = dns({"rebind.example": [[PUBLIC], ["127.0.0.1"]]})
    (result,) = fetch(["http://rebind.example/1.png"], retries=3)
    assert result.reason == "private_address"
    assert set(opened) == {PUBLIC}
    assert fake.asked == {"rebind.example": 2}


def test_private_hosts_are_asked_for_where_the_user_allows_them() -> None:
    with picture_server() as server:
        urls = [f"http://{host}:{port_of(server)}/1.png" for host in ("127.0.0.1", "localhost", "LOCALHOST.")]
        results = fetch(urls, allow_private_hosts=True)
    assert {result.reason for result in results} == {"ok"}
    assert server.seen == ["/1.png"] * 3


def test_with_a_proxy_addresses_and_local_names_are_refused_before_it_is_asked() -> None:
    with picture_server() as server:
        proxy = f"http://127.0.0.1:{port_of(server)}"
        results = fetch([f"http://{host}/1.png" for host in PRIVATE_HOSTS], proxy=proxy)
        assert {result.reason for result in results} == {"private_address"}
        assert server.seen == []
        server.faults["/1.png"] = [(200, {}, b"picture")]
        (passed,) = fetch(["http://pictures.example/1.png"], proxy=proxy)
    assert (passed.reason, passed.body) == ("ok", b"picture")
