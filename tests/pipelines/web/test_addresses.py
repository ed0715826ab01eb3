"""Private addresses in every spelling are refused, by the URL's text and by what a name leads to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from pipelines.web.addresses import GuardedResolver, PrivateAddressError, is_public, override_of, refused
from pipelines.web.config import FetchConfig
from tests.pipelines.chain import picture_server
from tests.pipelines.web.dns import DnsFixture, dns
from tests.pipelines.web.spellings import PRIVATE_HOSTS

__all__ = ["dns"]

CONFIG = FetchConfig()
PUBLIC = "93.184.216.34"

BAD_URLS = {
    "ftp://example.com/x.jpg": "not http or https",
    "file:///etc/passwd": "not http or https",
    "gopher://127.0.0.1:6379/_INFO": "not http or https",
    "data:image/png;base64,AAAA": "not http or https",
    "//example.com/x.jpg": "not http or https",
    "example.com/x.jpg": "not http or https",
    "": "not http or https",
    "http://": "no host",
    "http:///x.jpg": "no host",
    "http:/127.0.0.1/": "no host",
    "http:127.0.0.1": "no host",
    "http://user:secret@example.com/": "credentials",
    "http://user@example.com/": "credentials",
    "http://example.com@127.0.0.1/": "credentials",
    "http://127.0.0.1%2f@example.com/": "credentials",
    "http://1.1.1.1 &@2.2.2.2# @3.3.3.3/": "credentials",
    "http://example.com\\@127.0.0.1/": "cannot be parsed",
    "http://127.0.0.1\\@example.com/": "cannot be parsed",
    "http://[::1/": "cannot be parsed",
    "http://[127.0.0.1]/": "cannot be parsed",
    "http://example.com:99999/": "cannot be parsed",
    "http://example.com:80:80/": "cannot be parsed",
    "http://loc\u00adalhost/": "cannot be parsed",
    "http://127.0.0.1%00.example.com/": "not a host name",
    "http://127.0.0.1%2f.example.com/": "not a host name",
    "http://127.0.0.1,example.com/": "not a host name",
    "http://a b.com/": "not a host name",
    "http://a..b.com/": "not a host name",
    f"http://{'a' * 64}.com/": "not a host name",
    f"http://{'abc.' * 70}com/": "not a host name",
    "http://127.0.0.1.1/": "not an address",
    "http://4294967296/": "not an address",
    "http://0x100000000/": "not an address",
    "http://1.2.3.08/": "not an address",
    "http://256.256.256.256/": "not an address",
    "http://foo.127/": "not an address",
    "http://0x08.8.8.8/": "unusual spelling",
    "http://134744072/": "unusual spelling",
    "http://010.8.8.8/": "unusual spelling",
}

ALLOWED = [
    "http://example.com/x.jpg",
    "HTTPS://EXAMPLE.com:8443/x.jpg?a=b#c",
    "https://my_host.some-cdn.co.uk/a b.jpg",
    "http://bücher.example.org/ü.jpg",
    "http://xn--bcher-kva.example.org/",
    "http://例え.jp/",
    "http://example.com./x.jpg",
    "http://93.184.216.34/x.jpg",
    "http://[2606:4700:4700::1111]/x.jpg",
    "http://[::ffff:93.184.216.34]/",
    "http://[64:ff9b::93.184.216.34]/",
    "http://1.gravatar.com/avatar.png",
    "http://127.0.0.1.example.com/",
    "http://localhost.example.com/",
    "http://example.com/?u=http://127.0.0.1/",
    "http://example.com/@127.0.0.1/",
    "http://example.com#@127.0.0.1/",
    "http://@example.com/x.jpg",
    " http://example.com/x.jpg",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_private_hosts_are_refused_in_every_spelling(host: str) -> None:
    for url in (f"http://{host}/x.jpg", f"https://{host}:8080/", f"HTTP://{host}"):
        found = refused(url, CONFIG)
        assert found is not None
        assert found[0] == "private_address", found


@pytest.mark.parametrize(("url", "why"), BAD_URLS.items())
def test_urls_that_no_one_should_ask_for(url: str, why: str) -> None:
    for config in (CONFIG, FetchConfig(allow_private_hosts=True)):
        found = refused(url, config)
        assert found is not None
        assert found[0] == "bad_url"
        assert why in found[1]


@pytest.mark.parametrize("url", ALLOWED)
def test_public_urls_pass(url: str) -> None:
    assert refused(url, CONFIG) is None
    assert refused(URL(url), CONFIG) is None


def test_private_hosts_pass_where_the_user_allows_them() -> None:
    allowing = FetchConfig(allow_private_hosts=True)
    for host in ("127.0.0.1:8000", "[::1]", "localhost", "10.0.0.1", "nas", "nas.local"):
        assert refused(f"http://{host}/x.jpg", allowing) is None


def test_a_name_that_the_user_resolves_passes_but_an_address_does_not() -> None:
    """Overrides stand in for DNS, and an address in a URL never meets DNS."""
    config = FetchConfig(resolve={"*": "127.0.0.1:8080"})
    assert refused("http://pictures.test/x.jpg", config) is None
    assert refused("http://nas/x.jpg", config) is None
    assert refused("http://127.0.0.1/x.jpg", config) is not None
    assert refused("http://0x7f.1/x.jpg", config) is not None
    proxied = config.model_copy(update={"proxy": "http://proxy.example:3128"})
    assert refused("http://nas/x.jpg", proxied) is not None


@given(st.text(max_size=40) | st.text("0123456789abcdefx.:[]%@/\\# \t", max_size=30).map("http://{}".format))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    found = refused(text, CONFIG)
    assert found is None or found[0] in ("bad_url", "private_address")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
def test_the_system_never_reads_a_private_address_where_we_read_a_public_one(number: int, form: str) -> None:
    """The system's own reader is the judge, over all of IPv4 in its numeric spellings."""
    host = form.format(number)
    if refused(f"http://{host}/", CONFIG) is None:
        assert is_public(ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host))))


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_as_private_as_by_itself(address: ipaddress.IPv4Address) -> None:
    for carrier in ("::ffff:0:0", "64:ff9b::", "2606:4700::5efe:0:0"):
        inside = ipaddress.IPv6Address(int(ipaddress.IPv6Address(carrier)) + int(address))
        assert is_public(inside) == is_public(address)
    assert is_public(ipaddress.IPv6Address((0x2002 << 112) + (int(address) << 80))) == is_public(address)


def test_overrides_fit_by_their_first_pattern_without_case_or_final_dot() -> None:
    config = FetchConfig(resolve={"a.test": "127.0.0.1:1", "*.test": "[::1]:2"})
    assert override_of("A.test.", config) == ("127.0.0.1", 1)
    assert override_of("b.test", config) == ("::1", 2)
    assert override_of("test", config) is None


async def look_up(*hosts: str, config: FetchConfig = CONFIG) -> list[list[str] | OSError]:
    """The addresses, or the error, of each host in turn, by one resolver."""
    resolver = GuardedResolver(config)
    found: list[list[str] | OSError] = []
    for host in hosts:
        try:
            found.append([result["host"] for result in await resolver.resolve(host, 80)])
        except OSError as error:
            found.append(error)
    await resolver.close()
    return found


def test_private_answers_are_dropped_and_only_private_ones_refused(dns: DnsFixture) -> None:
    dns(
        {
            "mixed.example": [["10.0.0.1", PUBLIC, "::1", "2606:4700::1111", "::ffff:127.0.0.1"]],
            "private.example": [["127.0.0.1", "fe80::1", "169.254.169.254"]],
        }
    )
    mixed, private = asyncio.run(look_up("mixed.example", "private.example"))
    assert mixed == [PUBLIC, "2606:4700::1111"]
    assert isinstance(private, PrivateAddressError)
    (allowed,) = asyncio.run(look_up("private.example", config=FetchConfig(allow_private_hosts=True)))
    assert allowed == ["127.0.0.1", "fe80::1", "169.254.169.254"]


def test_answers_are_remembered_also_those_that_there_is_no_such_name(dns: DnsFixture) -> None:
    gone = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    busy = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    fake = dns({"a.example": [[PUBLIC]], "gone.example": [gone], "busy.example": [busy, [PUBLIC]]})
    found = asyncio.run(look_up("a.example", "A.example.", *["gone.example"] * 3, "busy.example", "busy.example"))
    assert found[:2] == [[PUBLIC], [PUBLIC]]
    assert all(isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME for error in found[2:5])
    assert isinstance(found[5], socket.gaierror)
    assert found[6] == [PUBLIC]
    assert fake.asked == {"a.example": 1, "gone.example": 1, "busy.example": 2}


def test_a_hundred_requests_share_a_lookup_and_one_that_gives_up_leaves_it_to_the_others(
    dns: DnsFixture,
) -> None:
    fake = dns({"slow.example": [[PUBLIC]]}, seconds=0.3)

    async def run() -> list[Any]:
        resolver = GuardedResolver(CONFIG)
        impatient = asyncio.create_task(asyncio.wait_for(resolver.resolve("slow.example"), 0.01))
        found = await asyncio.gather(
            impatient, *(resolver.resolve("slow.example") for _ in range(100)), return_exceptions=True
        )
        await resolver.close()
        return found

    first, *others = asyncio.run(run())
    assert isinstance(first, TimeoutError)
    assert all(other[0]["host"] == PUBLIC for other in others)
    assert fake.asked == {"slow.example": 1}


def test_the_memory_has_a_limit(dns: DnsFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.web.addresses.KNOWN_NAMES", 2)
    fake = dns({name: [[PUBLIC]] for name in ("a.example", "b.example", "c.example")})
    asyncio.run(look_up("a.example", "b.example", "c.example", "c.example", "b.example", "a.example"))
    assert fake.asked == {"a.example": 2, "b.example": 1, "c.example": 1}


def test_overrides_and_the_proxy_may_be_private(dns: DnsFixture) -> None:
    dns({"proxy.corp": [["10.1.1.1"]], "other.corp": [["10.1.1.1"]]})
    config = FetchConfig(resolve={"*.test": "[::1]:81"}, proxy="http://proxy.corp:3128")
    override, proxy, other = asyncio.run(look_up("a.test", "proxy.corp", "other.corp", config=config))
    assert override == ["::1"]
    assert proxy == ["10.1.1.1"]
    assert isinstance(other, PrivateAddressError)


def test_a_name_that_no_resolver_can_encode_does_not_exist() -> None:
    (found,) = asyncio.run(look_up("a" * 64 + ".example"))
    assert isinstance(found, socket.gaierror)


def test_the_address_that_was_checked_is_the_one_connected_to(dns: DnsFixture) -> None:
    """A rebinding name: public when it is looked up, private ever after. No second lookup may follow the check."""
    fake = dns({"rebind.example": [[PUBLIC], ["127.0.0.1"]]})
    tried: list[str] = []

    def no_network(info: Any) -> socket.socket:
        tried.append(info[4][0])
        raise OSError("no network in this test")

    async def run(server: Any) -> None:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(CONFIG), use_dns_cache=False, socket_factory=no_network
        )
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.get(f"http://rebind.example:{server.server_address[1]}/1.png")

    with picture_server() as server:
        asyncio.run(run(server))
    assert set(tried) == {PUBLIC}
    assert fake.asked == {"rebind.example": 1}
    assert server.seen == []
