from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from filters.errors import HeadwaterError, InputError, ShardError
from tests.trainer.conftest import AUGMENT, BROKEN_ROW, Shifted, TinyMix, dataset_of, text_of
from trainer.batch import Batch, Pixels
from trainer.dataset import Epoch
from trainer.loader import Loader


@contextlib.contextmanager
def loader_of(mix: TinyMix, batch: int = 16, *, seed: int = 0, **options: Any) -> Iterator[Loader]:
    """Batches with chance in the view, in what comes after it, and in the order."""
    data = dataset_of(mix, view=Shifted(32), after=AUGMENT, seed=seed)
    with Loader(data, batch, **options) as loader:
        yield loader


def take(mix: TinyMix, number: int, **options: Any) -> list[Batch]:
    with loader_of(mix, **options) as loader:
        return list(itertools.islice(loader, number))


def digests(batch: Batch) -> list[str]:
    """A digest of each sample: its row, source, tokens and pixels."""
    return [
        hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in sample)).hexdigest()
        for sample in zip(batch.rows, batch.sources.numpy(), batch.tokens.numpy(), batch.images.numpy(), strict=True)
    ]


@pytest.fixture(scope="module")
def whole(mix: TinyMix) -> list[list[str]]:
    """What one process without workers gets: two epochs and a half."""
    return [digests(batch) for batch in take(mix, 8)]


def test_a_batch_is_bytes_tokens_sources_and_rows(mix: TinyMix) -> None:
    (batch,) = take(mix, 1)
    assert (batch.images.shape, batch.images.dtype) == ((16, 3, 32, 32), torch.uint8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert (batch.tokens.dtype, batch.sources.dtype, str(batch.rows.dtype)) == (torch.int64, torch.int64, "int64")
    assert text_of(batch.tokens) == [mix.captions[row] for row in batch.rows]
    assert batch.sources.tolist() == [int(row >= 24) for row in batch.rows]
    assert len(batch) == 16


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_samples_are_the_same_for_any_ranks_and_workers(
    mix: TinyMix, whole: list[list[str]], ranks: int, workers: int
) -> None:
    """By hash of their pixels, tokens, sources and rows; threads and the size of a unit vary too."""
    for rank in range(ranks):
        options = {"rank": rank, "ranks": ranks, "workers": workers, "threads": 1 + rank, "unit": 3 + rank}
        batches = take(mix, 8, **options)
        assert [digests(batch) for batch in batches] == [samples[rank::ranks] for samples in whole]


def test_an_epoch_holds_each_row_once_and_the_next_differs(mix: TinyMix) -> None:
    batches = take(mix, 6)
    first, second = (np.concatenate([b.rows for b in part]) for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(48))
    assert not np.array_equal(first, second)


def test_the_last_rows_that_fill_no_batch_are_left_out(mix: TinyMix) -> None:
    with loader_of(mix, 20) as loader:
        first = np.concatenate([next(loader).rows for _ in range(2)])
        assert (loader.epoch, loader.position) == (0, 40)
        next(loader)
        assert (loader.epoch, loader.position) == (1, 20)
    assert len(np.unique(first)) == 40


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 3, 4])
def test_state_resumes_at_the_exact_sample(mix: TinyMix, whole: list[list[str]], taken: int, workers: int) -> None:
    """In the middle and at the very end of an epoch; what workers have made ahead is not in the state."""
    with loader_of(mix, workers=workers, unit=5) as begun:
        assert [digests(next(begun)) for _ in range(taken)] == whole[:taken]
        state = json.loads(json.dumps(begun.state_dict()))
        assert (state["epoch"], state["position"]) == {1: (0, 16), 3: (0, 48), 4: (1, 16)}[taken]
    with loader_of(mix, seed=9, workers=workers) as resumed:
        next(resumed)
        resumed.load_state_dict(state)
        assert [digests(next(resumed)) for _ in range(3)] == whole[taken : taken + 3]
        assert resumed.state_dict()["epoch"] == (16 * (taken + 3) - 1) // 48


def test_a_state_of_something_else_is_refused(mix: TinyMix, broken_mix: TinyMix) -> None:
    with loader_of(mix) as loader:
        state = loader.state_dict()
        with pytest.raises(InputError, match="of a mixture of 47 pairs, this one has 48"):
            loader.load_state_dict({**state, "rows": 47})
        with pytest.raises(InputError, match="of another mixture of as many pairs"):
            loader.load_state_dict({**state, "mixture": "0" * 64})
        loader.load_state_dict({**state, "batch": 8})
    with loader_of(mix, batch_mix="single_source") as single:
        for other in (state, {**single.state_dict(), "batch": 8}):
            with pytest.raises(InputError, match="the order of an epoch depends on both"):
                single.load_state_dict(other)
        single.load_state_dict(single.state_dict())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_one_source_each(mix: TinyMix, workers: int) -> None:
    batches = take(mix, 9, batch=10, batch_mix="single_source", workers=workers, unit=3)
    for batch in batches:
        assert len(set(batch.sources.tolist())) == 1
    rows = np.concatenate([batch.rows for batch in batches[:4]])  # 2 batches of each source's 24 rows
    assert len(np.unique(rows)) == 40
    assert sorted(batch.sources[0].item() for batch in batches[:4]) == [0, 0, 1, 1]
    for rank in range(2):
        mine = take(mix, 9, batch=10, batch_mix="single_source", rank=rank, ranks=2)
        for one, other in zip(batches, mine, strict=True):
            assert digests(one)[rank::2] == digests(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_decode_errors_are_counted_by_uid_once_they_are_consumed(broken_mix: TinyMix, workers: int) -> None:
    with loader_of(broken_mix, workers=workers, unit=4) as loader:
        seen, uid = 0, f"{BROKEN_ROW:032x}"
        for batch in itertools.islice(loader, 6):
            assert BROKEN_ROW not in batch.rows
            order = loader.dataset.order(Epoch(0, loader.epoch))
            seen += BROKEN_ROW in order[loader.position - 16 : loader.position]
            assert loader.decode_errors == ({uid: seen} if seen else {})
        assert seen == 2
        state = loader.state_dict()["decode_errors"]
        assert state[uid]["count"] == 2
        assert state[uid]["reason"].startswith("60 bytes are not a whole picture")
        loader.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert loader.decode_errors == {uid: 2}
        assert loader.state_dict()["decode_errors"] == state


def test_a_batch_that_cannot_be_is_refused(mix: TinyMix) -> None:
    for options, message in (
        ({"batch": 64}, "a batch of 64"),
        ({"ranks": 3}, "3 equal parts"),
        ({"batch": 32, "batch_mix": "single_source"}, "no source has the 32 pairs of a batch"),
    ):
        with pytest.raises(InputError, match=message):
            take(mix, 1, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_are_ours_and_one_line(mix: TinyMix, tmp_path: Path, workers: int) -> None:
    lost = TinyMix(mix.manifest, tmp_path / "nowhere", mix.images, mix.captions)
    for _ in range(2):
        with pytest.raises(ShardError, match=r"^[^\n]*00000\.tar cannot be read: No such file[^\n]*$") as caught:
            take(lost, 1, workers=workers)
    assert caught.value.__cause__ is None or workers == 0


def test_an_error_comes_after_the_batches_before_it(mix: TinyMix, tmp_path: Path) -> None:
    """Workers are ahead of what is consumed; their errors are not."""
    with loader_of(mix) as loader:
        expected = [digests(next(loader)) for _ in range(2)]
        third = {mix.images[row] for row in loader.dataset.order(Epoch(0, 0))[32:48]}

    class Fails(Shifted):
        def __call__(self, data: bytes, generator: np.random.Generator) -> Pixels:
            if data in third:
                raise ShardError("the third batch")
            return super().__call__(data, generator)

    data = dataset_of(mix, view=Fails(32), after=AUGMENT)
    with Loader(data, 16, workers=2, unit=4) as loader:
        assert [digests(next(loader)) for _ in range(2)] == expected
        with pytest.raises(ShardError, match="the third batch"):
            next(loader)
        with pytest.raises(ShardError, match="the third batch"):
            next(loader)


class Dies(Shifted):
    """A view whose process is killed, as by a kernel that is out of memory, or ends by a fault of ours."""

    def __init__(self, how: str) -> None:
        super().__init__(32)
        self.how = how

    def __call__(self, data: bytes, generator: np.random.Generator) -> Pixels:
        if self.how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("how", "message"),
    [("SIGKILL", "was killed by SIGKILL; is there enough memory"), ("exit", "ended with exit code 3")],
)
def test_a_worker_that_ends_is_an_error(mix: TinyMix, how: str, message: str) -> None:
    with (
        Loader(dataset_of(mix, view=Dies(how)), 16, workers=2) as loader,
        pytest.raises(HeadwaterError, match=rf"loader process \d+ {message}"),
    ):
        next(loader)


def processes_of(loader: Loader) -> list[int]:
    assert loader._batches is not None
    return [worker.process.pid for worker in loader._batches._workers._all]  # type: ignore[union-attr,misc]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_ends_the_workers_and_is_no_end(mix: TinyMix, whole: list[list[str]]) -> None:
    with loader_of(mix, workers=2) as loader:
        first = digests(next(loader))
        workers = processes_of(loader)
        assert all(map(is_there, workers))
        loader.close()
        assert not any(map(is_there, workers))
        assert [first, digests(next(loader))] == whole[:2]


def hold(mix: TinyMix, said: Path, out: Connection) -> None:
    """Take a batch from two workers, tell their numbers, and wait; what they print goes to a file."""
    os.setsid()
    with (
        said.open("w") as sys.stderr,
        contextlib.suppress(KeyboardInterrupt),
        loader_of(mix, workers=2) as loader,
    ):
        next(loader)
        out.send(processes_of(loader))
        time.sleep(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_and_say_nothing(mix: TinyMix, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches all processes of a terminal; of a killed one the workers learn by its connection."""
    # A new process: one forked from this may wait for a thread that is only here, as Ray's.
    context, said = multiprocessing.get_context("spawn"), tmp_path / "said"
    theirs, mine = context.Pipe()
    process = context.Process(target=hold, args=(mix, said, mine))
    process.start()
    assert process.pid is not None
    workers = theirs.recv()
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    process.join(60)
    assert process.exitcode == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert said.read_text() == ""
    deadline = time.monotonic() + 30
    while any(map(is_there, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_there, workers))


def test_a_worker_destroys_nothing_that_was_made_before_it(mix: TinyMix, tmp_path: Path) -> None:
    """Garbage of the parent, as Ray's handles, waits in its destructor for a thread that a forked process lacks."""

    class Handle:
        def __init__(self) -> None:
            self.me = self  # only a collection finds it

        def __del__(self) -> None:
            (tmp_path / str(os.getpid())).touch()

    gc.disable()
    try:
        Handle()
        take(mix, 4, workers=2)
        assert not gc.isenabled()
        assert not list(tmp_path.iterdir())
    finally:
        gc.enable()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]
