"""How pictures are fetched: who we say we are, what we refuse, how patient and how gentle we are."""

from __future__ import annotations

import fnmatch
import ipaddress
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class HostLimit(BaseModel):
    """What one host may be asked at most, by all workers of the cluster together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: int = Field(8, ge=1, description="requests in flight")
    rate: float | None = Field(20.0, gt=0, description="requests a second; no limit if null")


class FetchConfig(BaseModel):
    """How politely and how patiently to fetch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_agent: str = Field(
        "headwater/0.1", description="name that we give ourselves; robots.txt rules are read for it"
    )
    contact: str | None = Field(None, description="address or URL where you can be reached; sent with the name")
    robots: bool = Field(True, description="obey robots.txt")
    opt_out: tuple[str, ...] = Field(
        ("noai", "noimageai", "noindex", "noimageindex", "noml"),
        description="X-Robots-Tag directives that are obeyed",
    )
    tdm: bool = Field(True, description="obey the TDM-Reservation header")
    limit: HostLimit = Field(HostLimit(), description="limit of each host")
    hosts: dict[str, HostLimit] = Field({}, description="host pattern to its own limit, such as `*.wikimedia.org`")
    concurrency: int = Field(64, ge=1, description="requests in flight a shard")
    deadline: float = Field(20.0, gt=0, description="seconds that one URL may take, all its requests together")
    stall: float = Field(5.0, gt=0, description="seconds without a single byte after which a request is given up")
    shard_deadline: float = Field(
        1800.0, gt=0, description="seconds after which rows that wait for a host are given up"
    )
    retries: int = Field(2, ge=0, description="further tries after 429, 5xx or a broken connection")
    backoff: float = Field(0.5, ge=0, description="seconds before the first retry, doubled for each further one")
    max_retry_after: float = Field(
        30.0, ge=0, description="longest Retry-After in seconds after which the same URL is tried again"
    )
    max_redirects: int = Field(5, ge=0, description="redirects that are followed at most")
    max_bytes: int = Field(20_000_000, ge=1, description="largest body that is read")
    held_bytes: int = Field(
        64_000_000, ge=1, description="bytes fetched but not yet decoded from which on no more requests are sent"
    )
    resolve: dict[str, str] = Field({}, description="host pattern to ADDRESS:PORT, in place of DNS")
    allow_private_hosts: bool = Field(False, description="also fetch from private and loopback addresses")
    proxy: str | None = Field(None, description="HTTP proxy for all requests; the proxy then looks up the names")
    placeholder_urls: tuple[str, ...] = Field(
        ("*://i.imgur.com/removed.png", "*://imgur.com/removed.png"),
        description="patterns of final URLs of known error pages",
    )

    @field_validator("resolve")
    @classmethod
    def _endpoints(cls, resolve: dict[str, str]) -> dict[str, str]:
        for target in resolve.values():
            endpoint(target)
        return resolve

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, proxy: str | None) -> str | None:
        if proxy is not None and not (urlsplit(proxy).scheme == "http" and urlsplit(proxy).hostname):
            raise ValueError(f"{proxy!r} is not http://HOST:PORT")
        return proxy

    def agent(self) -> str:
        """The User-Agent header."""
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent

    def limit_of(self, host: str) -> HostLimit:
        """The limit of one host: the first pattern that fits it, else the general one."""
        return next((limit for pattern, limit in self.hosts.items() if fnmatch.fnmatch(host, pattern)), self.limit)


def endpoint(target: str) -> tuple[str, int]:
    """Address and port of `ADDRESS:PORT`; ValueError for anything else."""
    address, _, port = target.rpartition(":")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(port)
    except ValueError as error:
        raise ValueError(f"{target!r} is not ADDRESS:PORT, for example 127.0.0.1:8080") from error
