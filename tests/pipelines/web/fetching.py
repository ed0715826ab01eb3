"""One call of the fetcher, from its first request to its last."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipelines.web.config import FetchConfig
from pipelines.web.fetch import Fetched, Fetcher
from pipelines.web.hosts import local_limits


def fetched(urls: Sequence[str], config: FetchConfig) -> list[Fetched]:
    """What comes of each URL; each is handed on once."""
    found: dict[int, Fetched] = {}

    async def take(index: int, result: Fetched) -> None:
        assert index not in found
        found[index] = result

    async def run() -> None:
        fetcher = Fetcher(config, local_limits(config))
        try:
            await fetcher.fetch_all(urls, take)
        finally:
            await fetcher.close()

    asyncio.run(run())
    return [found[index] for index in range(len(urls))]
