"""A word while a job waits: without one, an hour of waiting for a slow server looks like a hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType

from pipelines.job import say

# Seconds without a line of progress after which one is said.
QUIET = 30.0


class Watch:
    """While it is entered, says `text()`, where that is not empty, whenever `quiet` seconds have passed since `heard`
    was called and since it spoke last."""

    def __init__(self, text: Callable[[], str], quiet: float) -> None:
        self._text, self._quiet = text, quiet
        self._last = monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def heard(self) -> None:
        """The job has said something itself."""
        self._last = monotonic()

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, self._last + self._quiet - monotonic())):
            if monotonic() - self._last < self._quiet:
                continue
            text = self._text()
            # What ended meanwhile does not wait any more.
            if text and not self._ended.is_set():
                say(text)
            self._last = monotonic()
