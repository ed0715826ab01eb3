"""The self-test before a large job: what it says of DNS and of the proxy, and when it stops the job."""

from __future__ import annotations

import http.server
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from filters.errors import InputError
from pipelines.web import selftest
from pipelines.web.addresses import LOOKUPS
from pipelines.web.config import FetchConfig
from pipelines.web.selftest import CONTROL, check
from tests.pipelines.chain import serving
from tests.pipelines.web.dns import Dns, DnsFixture, dns

__all__ = ["dns"]

PUBLIC = "93.184.216.34"
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
BUSY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
CONFIG = FetchConfig()


def test_a_healthy_dns_is_one_line_and_the_sample_is_seeded(dns: DnsFixture) -> None:
    hosts = [f"host{number}.example" for number in range(200)]
    first = dns({host: [[PUBLIC]] for host in hosts})
    (line,) = check(hosts, CONFIG)
    assert line.startswith(f"DNS: {LOOKUPS} of {LOOKUPS} sampled host names have an address (median ")
    second = dns({host: [[PUBLIC]] for host in hosts})
    random.Random(1).shuffle(hosts)
    check([host.upper() for host in hosts], CONFIG)
    assert first.asked == second.asked
    assert len(first.asked) == LOOKUPS


def test_each_trouble_is_named_with_what_to_try(dns: DnsFixture) -> None:
    dns({"a.example": [GONE], "b.example": [GONE], "d.example": [["10.0.0.1"]], "f.example": [[PUBLIC]]})
    head, private = check(["a.example", "b.example", "d.example", "f.example"], CONFIG)
    assert head.startswith("DNS: 1 of 4 sampled")
    assert private == (
        "DNS: 1 sampled names (d.example) lead into private networks and are refused: "
        "set fetch.allow_private_hosts if the servers are your own"
    )
    dns({"a.example": [GONE], "b.example": [GONE], "e.example": [BUSY], "f.example": [[PUBLIC]], "c.example": [GONE]})
    _, silent, absent = check(["a.example", "b.example", "c.example", "e.example", "f.example"], CONFIG)
    assert "(e.example) got no answer: try a caching resolver" in silent
    assert "3 sampled names" in absent
    assert "do not exist" in absent


def test_a_slow_dns_is_told_with_its_pace(dns: DnsFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "SLOW", 0.05)
    dns({f"{n}a.example": [[PUBLIC]] for n in range(4)}, seconds=0.1)
    lines = check([f"{n}a.example" for n in range(4)], CONFIG)
    assert "names a second at this pace" in lines[1]


def test_no_answer_in_time_counts_as_silence(dns: DnsFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "PATIENCE", 0.05)
    dns({"a.example": [[PUBLIC]], CONTROL: [[PUBLIC]]}, seconds=0.3)
    with pytest.raises(InputError, match=r"1 sampled names \(a\.example\) cannot be looked up, nor can"):
        check(["a.example"], CONFIG)


def test_without_dns_the_job_stops_and_an_unused_proxy_is_mentioned(
    dns: DnsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns({"a.example": [GONE], CONTROL: [BUSY]})
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy.corp:3128")
    with pytest.raises(InputError, match=r"set fetch\.proxy") as caught:
        check(["a.example"], CONFIG)
    assert "http://proxy.corp:3128" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_dead_hosts_alone_do_not_stop_a_job(dns: DnsFixture) -> None:
    """A retry of rows that failed by DNS has nothing else."""
    dns({"a.example": [GONE], CONTROL: [[PUBLIC]]})
    assert len(check(["a.example"], CONFIG)) == 2


def test_a_dns_that_leads_everything_into_private_networks_stops_the_job(dns: DnsFixture) -> None:
    dns({"a.example": [["10.0.0.1"]], "b.example": [["192.168.0.1"]]})
    with pytest.raises(InputError, match="lead into private networks"):
        check(["a.example", "b.example"], CONFIG)
    assert len(check(["a.example", "b.example"], FetchConfig(allow_private_hosts=True))) == 1


def test_what_needs_no_lookup_is_not_looked_up_and_keeps_the_job_alive(dns: DnsFixture) -> None:
    fake = dns({"a.example": [GONE]})
    config = FetchConfig(resolve={"*.test": "127.0.0.1:80"})
    assert check([PUBLIC, "2606:4700::1111", "x.test", "localhost", "127.0.0.1", "not a name"], config) == []
    assert check([], config) == []
    assert len(check(["a.example", "x.test"], config)) == 2
    assert fake.asked == {"a.example": 1}


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Answers every request, and every CONNECT, with the server's `status`; CONNECT never leads anywhere."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.seen.append((self.path, self.headers["User-Agent"]))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_CONNECT(self) -> None:
        server: Any = self.server
        self.send_response(server.connect)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def proxy_server(status: int, connect: int) -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    server.status, server.connect, server.seen = status, connect, []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield server


HOSTS = [f"{letter}.example" for letter in "abcdef"]


def test_the_proxy_is_asked_for_names_in_place_of_dns(dns: DnsFixture) -> None:
    fake: Dns = dns({})
    with proxy_server(200, 403) as proxy:
        lines = check(HOSTS, FetchConfig(proxy=proxy.url, contact="https://example.org/us"))
    assert lines[0] == f"proxy {proxy.url}: of the sampled hosts it reached 3 of 3 by http and 0 of 3 by https"
    assert lines[1].startswith("proxy: no https request came through (CONNECT answered with status 403)")
    assert [path.rpartition("/")[2] for path, _ in proxy.seen] == ["robots.txt"] * 3
    assert {agent for _, agent in proxy.seen} == {"headwater/0.1 (+https://example.org/us)"}
    assert not fake.asked


def test_a_proxy_that_reaches_nothing_is_told(dns: DnsFixture) -> None:
    dns({})
    with proxy_server(502, 502) as proxy:
        lines = check(HOSTS, FetchConfig(proxy=proxy.url))
    assert lines[1].startswith("proxy: no http request came through (status 502)")
    assert len(lines) == 3


def test_a_proxy_that_wants_a_password_or_is_not_there_stops_the_job(dns: DnsFixture) -> None:
    dns({})
    with proxy_server(407, 407) as proxy:
        with pytest.raises(InputError, match="asks for a password"):
            check(HOSTS, FetchConfig(proxy=proxy.url))
        url = proxy.url.replace("//", "//me:secret@")
    with pytest.raises(InputError, match="cannot be reached") as caught:
        check(HOSTS, FetchConfig(proxy=url))
    assert "secret" not in str(caught.value)
    dns({"proxy.example": [GONE]})
    with pytest.raises(InputError, match=r"proxy\.example:3128 cannot be reached"):
        check(HOSTS, FetchConfig(proxy="http://proxy.example:3128"))
