"""The robots.txt files that workers share, so that each host is asked for it once a job and not once a worker."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import NamedTuple

KEPT = 86_400.0  # seconds for which a file is believed (RFC 9309, section 2.4: not more than a day)
KEPT_FAILURE = 300.0  # and the failure to get it
HELD = 256 * 2**20  # bytes of files held, packed


class Text(NamedTuple):
    """What came of asking for a robots.txt: its text where `reason` is `ok`, else why there is none."""

    reason: str
    text: str = ""
    message: str | None = None


class _Kept(NamedTuple):
    packed: bytes
    reason: str
    message: str | None
    until: float


class Texts:
    """Robots.txt files by origin, and who is fetching which; the longest unused go first when there are too many."""

    def __init__(self, held: int = HELD) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._fetching: dict[str, str] = {}
        self._room = held

    def take(self, worker: str, origins: Iterable[str], now: float) -> dict[str, Text | None]:
        """Of `origins`, those that are known, and as None those that `worker` is to fetch; others fetch the rest."""
        found: dict[str, Text | None] = {}
        for origin in origins:
            kept = self._kept.get(origin)
            if kept and kept.until > now:
                self._kept.move_to_end(origin)
                found[origin] = Text(kept.reason, zlib.decompress(kept.packed).decode(), kept.message)
            elif self._fetching.setdefault(origin, worker) == worker:
                found[origin] = None
        return found

    def put(self, origin: str, text: Text | None, now: float) -> None:
        """Keep what a worker found; None says that it gave up before it had asked."""
        self._fetching.pop(origin, None)
        if text is None:
            return
        self._drop(origin)
        until = now + (KEPT if text.reason == "ok" else KEPT_FAILURE)
        kept = _Kept(zlib.compress(text.text.encode("utf-8", "replace"), 1), text.reason, text.message, until)
        self._kept[origin] = kept
        self._room -= _size(origin, kept)
        while self._room < 0:
            self._drop(next(iter(self._kept)))

    def forget(self, workers: Collection[str]) -> None:
        """Let others fetch what these workers were fetching."""
        self._fetching = {origin: worker for origin, worker in self._fetching.items() if worker not in workers}

    def _drop(self, origin: str) -> None:
        kept = self._kept.pop(origin, None)
        if kept:
            self._room += _size(origin, kept)


def _size(origin: str, kept: _Kept) -> int:
    return len(kept.packed) + len(origin) + 300
