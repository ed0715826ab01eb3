"""The word that a waiting job says: when, and when not."""

from __future__ import annotations

import time
from itertools import count

import pytest

from pipelines.progress import Watch


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_job_that_says_nothing_is_spoken_for_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = count()
    with Watch(lambda: f"still waiting {next(numbers)}", 0.05):
        while next(numbers) < 6:
            time.sleep(0.06)
    lines = said(capsys)
    assert lines and all(line.startswith("still waiting ") for line in lines)
    time.sleep(0.1)
    assert said(capsys) == []


def test_a_job_that_speaks_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(lambda: "waiting", 30.0) as watch:
        for _ in range(5):
            watch.heard()
    assert said(capsys) == []


def test_nothing_is_said_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def nothing() -> str:
        asked.append("")
        return asked[-1]

    with Watch(nothing, 0.01):
        while len(asked) < 3:
            time.sleep(0.01)
    assert said(capsys) == []


def test_it_ends_with_the_job_whatever_ends_that() -> None:
    with pytest.raises(KeyboardInterrupt), Watch(lambda: "waiting", 30.0) as watch:
        raise KeyboardInterrupt
    assert not watch._thread.is_alive()
