"""A scripted DNS in place of the system's."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

Script = dict[str, list[Sequence[str] | OSError]]


class Dns:
    """Answers for each name in turn, the last one for ever, each after `seconds`; counts the lookups."""

    def __init__(self, script: Script, seconds: float = 0.0) -> None:
        self._script, self._seconds = script, seconds
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, host: str, port: object, *_: object, **__: object) -> list[Any]:
        with self._lock:
            self.asked[host] += 1
            answers = self._script[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
        time.sleep(self._seconds)
        if isinstance(found, OSError):
            raise found
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in found
        ]


class DnsFixture(Protocol):
    """Puts a scripted DNS in place until the end of the test."""

    def __call__(self, script: Script, seconds: float = 0.0) -> Dns: ...


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> DnsFixture:
    """`dns({name: [answer, ...]})`: an answer is a list of addresses or an error."""

    def use(script: Script, seconds: float = 0.0) -> Dns:
        fake = Dns(script, seconds)
        monkeypatch.setattr(socket, "getaddrinfo", fake)
        return fake

    return use
