"""Trials: a stage of the chain, a fault at a seeded moment, the stage once more, and what is lost by then."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos import faults
from tests.chaos.checks import differences, digests, torn
from tests.chaos.corpus import Corpus, Stage, command, environment
from tests.chaos.faults import Struck
from tests.pipelines.chain import picture_server

DRAWS = 5  # of a moment, until the fault finds the command at work
PATIENCE = 30.0  # seconds, with twice the time of a quiet run, until an operator would end a command
PAGE = 4096


class Trial(NamedTuple):
    """What is tried, and whether the command has its workers on Ray."""

    stage: Stage
    fault: str
    seed: int
    on_ray: bool


class Outcome(NamedTuple):
    """What came of a trial: what was lost, what is worth to know, and at which draws the fault came too late."""

    trial: Trial
    tried: bool
    lost: list[str]
    notes: list[str]
    misses: int
    seconds: float


class Span(NamedTuple):
    """Seconds from a command's start to the first file that it publishes, and to its end; bytes on the disk."""

    first: float
    last: float
    growth: int


class Chaos:
    """An undisturbed run of the chain: the root before each stage, and the truth after it."""

    def __init__(self, folder: Path, server: Any, stages: Sequence[str] = ()) -> None:
        self.folder, self.server = folder, server
        self.corpus = Corpus(folder / "corpus", server.resolve)
        names = [stage.name for stage in self.corpus.stages]
        self.stages = self.corpus.stages[: 1 + max(map(names.index, stages or names))]
        self.truth: dict[str, dict[str, str]] = {}
        self.spans: dict[str, Span] = {}
        self._one_download = threading.Lock()
        root = folder / "root"
        self.corpus.begin(root)
        for stage in self.stages:
            shutil.copytree(root, folder / "before" / stage.name)
            self.spans[stage.name] = self._run(stage, root)
            self.truth[stage.name] = digests(root)

    def _run(self, stage: Stage, root: Path) -> Span:
        began, there = time.time(), set(root.rglob("*"))
        done = self.start_and_wait(command(stage, root), "truth")
        if done.returncode:
            raise SystemExit(f"chaos: {stage.name} fails undisturbed: {done.stderr[-800:]}")
        took = time.time() - began
        new = [path.stat() for path in root.rglob("*") if path.is_file() and path not in there]
        blocks = sum(-(-stat.st_size // PAGE) * PAGE for stat in new)
        return Span(min(stat.st_mtime for stat in new) - began, took, blocks)

    def start_and_wait(self, words: list[str], mark: str) -> subprocess.CompletedProcess[str]:
        """One run to its end."""
        env = environment(mark, self.folder / "ray")
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=240, check=False)

    def run(self, trial: Trial) -> Outcome:
        """Draw moments until the fault strikes a command at work; what is lost after the command was run again."""
        began, rng = time.monotonic(), random.Random(trial.seed)
        fetches = trial.stage.name in ("download", "curate")
        guard = self._one_download if fetches else contextlib.nullcontext()
        for draw in range(DRAWS):
            mark = f"{self.folder.name}-{trial.seed}-{draw}"
            home = self.folder / mark
            with guard, faults.disk(home / "root", trial.fault in ("disk", "store")) as root:
                try:
                    shutil.copytree(
                        self.folder / "before" / trial.stage.name, root, dirs_exist_ok=True, symlinks=True
                    )
                    hit, notes = self._disturb(trial, rng, mark, root, 0.7**draw)
                    lost = self._resume(trial, mark, root) if hit else []
                finally:
                    faults.end(mark)
            shutil.rmtree(home, ignore_errors=True)
            if hit:
                break
        return Outcome(trial, hit, lost, notes, draw + (not hit), time.monotonic() - began)

    def _resume(self, trial: Trial, mark: str, root: Path) -> list[str]:
        """The same command again, and what is not as it should be before it and after it."""
        bad = torn(root)
        again = self.start_and_wait(command(trial.stage, root), mark)
        if again.returncode:
            return [*bad, f"started again it ends with {again.returncode}: {again.stderr[-300:]}"]
        return bad + differences(root, self.truth[trial.stage.name])

    def _disturb(
        self, trial: Trial, rng: random.Random, mark: str, root: Path, pace: float
    ) -> tuple[bool, list[str]]:
        """Run the command and let the fault strike it; whether it struck, and how the command took it.

        `pace` is what part of the undisturbed run's time it may take: less after each moment that was too late.
        """
        whole = self.spans[trial.stage.name]
        span = Span(whole.first * pace, whole.last * pace, whole.growth)
        scratch, clock = self.folder / mark / "r", root.parent / "clock"
        words, more = command(trial.stage, root, on_ray=trial.on_ray), {}
        if trial.fault == "clock":
            clock.write_text("+0")
            more = {
                "LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        if trial.fault == "disk":
            words = self._with_little_disk(words, root, int(span.growth * rng.uniform(0, 0.8)))
        with _started(words, environment(mark, scratch, **more), root.parent) as process:
            struck = Struck(process, mark, root, self.server, clock)
            if trial.fault == "two":
                with _started(words, environment(mark, scratch), root.parent) as other:
                    both = struck.runs
                    notes = [*_wait(other, whole), *_wait(process, whole)]
                    codes = f"exit codes {process.returncode} and {other.returncode}"
                    return both, [*notes, f"{codes}: {_last_line(root.parent)}"]
            if trial.fault == "disk":
                notes = _wait(process, whole)
                faults.limit_disk(root, 0)
                return process.returncode != 0, [*notes, f"exit code {process.returncode}: {_last_line(root.parent)}"]
            hit = _when(trial, rng, span, struck) and faults.STRIKES[trial.fault](struck)
            notes = _wait(process, whole) if hit or trial.fault == "store" else []
            return hit, [*notes, f"exit code {process.returncode}"]

    def _with_little_disk(self, words: list[str], root: Path, room: int) -> list[str]:
        """The command, on a root that has room for so many bytes more."""
        if not root.is_mount():
            return ["prlimit", f"--fsize={max(1, room // 8)}", *words]
        there = os.statvfs(root)
        faults.limit_disk(root, (there.f_blocks - there.f_bfree) * there.f_frsize + room // PAGE * PAGE)
        return words


def _when(trial: Trial, rng: random.Random, span: Span, struck: Struck) -> bool:
    """Wait for the moment: a part of the command's work, from shortly before the first file it publishes to its end.

    On Ray the work begins when there is a worker. False where the command ended before.
    """
    work = span.last - span.first
    if trial.on_ray:
        word = "raylet" if trial.fault in ("raylet", "node") else "_RayWorker"
        while struck.runs and not any(faults.is_called(p, word) for p in faults.family(struck.mark)):
            time.sleep(0.05)
        until = time.monotonic() + rng.uniform(0, work + (span.first if word == "raylet" else 0))
    else:
        until = time.monotonic() + rng.uniform(span.first / 2, span.last)
    while struck.runs and time.monotonic() < until:
        time.sleep(0.01)
    return struck.runs


def _wait(process: subprocess.Popen[bytes], quiet: Span) -> list[str]:
    """Wait for the end; a command that does not find it is killed, which is told."""
    try:
        process.wait(PATIENCE + 2 * quiet.last)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return ["had to be ended"]
    return []


def _last_line(home: Path) -> str:
    lines = (home / "said").read_text(errors="replace").strip().splitlines()
    return lines[-1][-160:] if lines else ""


@contextlib.contextmanager
def _started(words: list[str], env: dict[str, str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "said").open("ab") as said:
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def faketime() -> str:
    """The library that changes a process's clock, or ''."""
    return next(iter(map(str, sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))), "")


def planned(stages: Sequence[Stage], count: int, seed: int = 0) -> list[Trial]:
    """`count` trials: the faults as evenly as may be, each on training, the study, curation, others in turn."""
    trials: list[Trial] = []
    kinds = [fault for fault in (*faults.HERE, *faults.ON_RAY) if fault != "clock" or faketime()]
    for number in range(count):
        fault, turn = kinds[number % len(kinds)], number // len(kinds)
        able = [stage for stage in stages if stage.on_ray or fault in faults.HERE]
        first = [stage for stage in able if stage.name in ("train", "study", "curate")]
        others = [stage for stage in able if stage not in first]
        shift = kinds.index(fault) * 2 % len(others) if others else 0
        order = [*first, *others[shift:], *others[:shift]]
        stage = order[turn % len(order)]
        on_ray = stage.on_ray and (fault in faults.ON_RAY or (fault == "driver" and turn % 2 == 0))
        trials.append(Trial(stage, fault, 1000 * seed + number, on_ray))
    return trials


@contextlib.contextmanager
def chaos(folder: Path, stages: Sequence[str] = ()) -> Iterator[Chaos]:
    """The undisturbed chain, up to the last of `stages`, with its picture server."""
    with picture_server() as server:
        server.delay = faults.DELAY
        yield Chaos(folder, server, stages)
