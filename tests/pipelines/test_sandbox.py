"""Processes that may die: what a crash, a hang, a memory bomb or a killing costs, and what hostile pictures do."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from filters.errors import HeadwaterError
from filters.pixels import DecodeError
from filters.stored import Recipe, Stored, store
from pipelines.sandbox import Crashed, Sandbox
from pipelines.store.reasons import REASONS
from tests.filters.mutations import mutated, originals

_seen: list[str] = []


def act(task: str, value: Any = None) -> Any:
    """What the tests have a sandbox do."""
    _seen.append(task)
    if task == "crash":
        ctypes.string_at(0)
    elif task == "exit":
        os._exit(3)
    elif task == "killed once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "hang":
        time.sleep(60)
    elif task == "eat":
        return len(bytearray(value))
    elif task == "raise":
        raise DecodeError("too_small", "no more than a line")
    return os.getpid() if task == "pid" else len(_seen) if task == "count" else value


@pytest.fixture
def box() -> Iterator[Sandbox[Any]]:
    box: Sandbox[Any] = Sandbox(act, timeout=20, memory=2 << 30)
    yield box
    box.close()


def test_bytes_there_and_back(box: Sandbox[Any]) -> None:
    for size in (0, 1, 100_000, 30_000_000):
        assert box.call_sync("echo", bytes(size)) == bytes(size)
    assert box.call_sync("pid") == box.call_sync("pid") != os.getpid()


def test_our_exceptions_come_back_as_they_are_and_others_as_crashes(box: Sandbox[Any]) -> None:
    pid = box.call_sync("pid")
    with pytest.raises(DecodeError, match="no more than a line") as caught:
        box.call_sync("raise")
    assert caught.value.reason == "too_small"
    with pytest.raises(Crashed, match="TypeError: "):
        box.call_sync()
    assert box.call_sync("pid") == pid


@pytest.mark.parametrize(("task", "text"), [("crash", "SIGSEGV"), ("exit", "exit code 3")])
def test_a_crash_costs_its_call(box: Sandbox[Any], task: str, text: str) -> None:
    with pytest.raises(Crashed, match=text):
        box.call_sync(task)
    assert box.call_sync("count") == 1  # a fresh process


def test_a_hang_ends_in_time() -> None:
    box: Sandbox[Any] = Sandbox(act, timeout=0.5)
    with pytest.raises(Crashed, match="too long"):
        box.call_sync("hang")
    assert box.call_sync("echo", 5) == 5
    box.close()


def test_memory_is_bounded(box: Sandbox[Any]) -> None:
    with pytest.raises(Crashed, match="memory"):
        box.call_sync("eat", 3 << 30)
    assert box.call_sync("eat", 1 << 28) == 1 << 28


def test_killed_from_outside_is_no_crash_of_the_call(box: Sandbox[Any], tmp_path: Path) -> None:
    assert box.call_sync("killed once", str(tmp_path / "mark")) == str(tmp_path / "mark")
    os.kill(box.call_sync("pid"), signal.SIGKILL)  # while it waits
    assert box.call_sync("echo", 1) == 1


def test_one_crash_does_not_disturb_the_others() -> None:
    box: Sandbox[Any] = Sandbox(act, processes=3)

    async def both() -> tuple[list[Any], int]:
        tasks = ["crash" if n % 10 == 5 else "echo" for n in range(40)]
        found = await asyncio.gather(*(box.call(t, n) for n, t in enumerate(tasks)), return_exceptions=True)
        pids = await asyncio.gather(*(box.call("pid") for _ in range(9)))
        return found, len(set(pids))

    found, pids = asyncio.run(both())
    assert [n for n, value in enumerate(found) if value != n] == [5, 15, 25, 35]
    assert {type(value) for value in found} == {int, Crashed}
    assert 1 <= pids <= 3
    box.close()


def test_a_call_that_is_given_up_leaves_no_process_behind() -> None:
    box: Sandbox[Any] = Sandbox(act)

    async def give_up() -> int:
        pid = int(await box.call("pid"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(box.call("hang"), 0.3)
        assert await box.call("echo", 7) == 7
        return pid

    assert not psutil.pid_exists(asyncio.run(give_up()))
    box.close()


def test_close_ends_the_processes(box: Sandbox[Any]) -> None:
    pid = box.call_sync("pid")
    box.close()
    assert not psutil.pid_exists(pid)
    assert box.call_sync("pid") != pid


@pytest.mark.parametrize("last", ["hang", "echo"])
def test_processes_end_with_a_killed_caller(last: str) -> None:
    code = (
        "from tests.pipelines.test_sandbox import act, Sandbox\n"
        "import asyncio\n"
        "box = Sandbox(act, timeout=2)\n"
        "print(box.call_sync('pid'), flush=True)\n"
        f"box.call_sync({last!r})\n"
        "print('done', flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        child = psutil.Process(int(caller.stdout.readline()))
        if last == "echo":
            caller.stdout.readline()
        else:
            time.sleep(0.3)
        caller.kill()
    child.wait(timeout=30)


def test_a_function_that_cannot_be_imported_is_one_clear_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pipelines.sandbox import Sandbox\n"
        "def mine(): return 1\n"
        "box = Sandbox(mine)\n"
        "try:\n"
        "    box.call_sync()\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "box.close()\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith(f"{HeadwaterError.__name__} a sandbox process could not start: ")


def test_damaged_pictures_each_get_their_reason() -> None:
    """5,000 files, and some good ones between them to show that the processes still work."""
    recipe = Recipe(image_size=32, max_pixels=1_000_000)
    box: Sandbox[Stored] = Sandbox(partial(store, recipe=recipe), processes=2, timeout=20)
    good = originals()["jpeg"]
    reasons: Counter[str] = Counter()
    pids: set[int] = set()
    files = iter(mutated(5000, seed=11))

    async def work() -> None:
        for number, (name, data) in enumerate(files):
            try:
                stored = await box.call(data)
                assert max(stored.width, stored.height) <= 32, name
                reasons["ok"] += 1
            except DecodeError as error:
                reasons[error.reason] += 1
            if number % 100 == 0:
                assert (await box.call(good)).width == 24
                mine = psutil.Process().children()
                pids.update(child.pid for child in mine if "pipelines.sandbox" in " ".join(child.cmdline()))

    async def both() -> None:
        await asyncio.gather(work(), work())

    asyncio.run(both())
    box.close()
    assert sum(reasons.values()) == 5000
    assert set(reasons) == {"ok", "decode", "too_many_pixels"}
    assert set(reasons) <= set(REASONS)
    assert reasons["decode"] > 3000
    assert len(pids) <= 2  # none died
