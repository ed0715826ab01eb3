"""Running one function over many shards, on Ray Data or in this process.

A shard is the unit of work, of retry and of blame. A worker catches what goes wrong in its shard and reports it; one
that dies is started again and its shards are tried again, and a shard that keeps killing its workers is named.
"""

from __future__ import annotations

import contextlib
import json
import math
import pickle
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from typing import Any, NamedTuple

from filters.errors import ConfigError, HeadwaterError
from pipelines import metrics
from pipelines.job import Account, say
from pipelines.ray_session import start_ray

Work = Callable[[Any], dict[str, Any]]

# Takes the result of an item, and says whether no further one is to be begun.
Gate = Callable[[dict[str, Any]], bool]
_gate: ContextVar[Gate] = ContextVar("gate", default=lambda _result: False)


@contextlib.contextmanager
def gated(gate: Gate) -> Iterator[None]:
    """While the block runs, `map_shards` asks `gate` after each item, and ends early where it says so.

    What is under way then is finished in a local run; on Ray it is dropped, and made again by the next run.
    """
    token = _gate.set(gate)
    try:
        yield
    finally:
        _gate.reset(token)


# A worker may die for a reason of its own (its node went away), so what it left is tried again as often as this.
_RETRIES = 3


def map_shards(
    items: Sequence[Any],
    make: Callable[[], Work],
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    local: bool = False,
    lanes: int = 1,
    ahead: bool = False,
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield (item, result) as items finish; a failed item yields `{"error": text}`.

    `make` is called once a worker and returns the function that handles one item, in `lanes` threads at once; where
    that function has a `close`, it is called at the end of a local run (on Ray a worker ends with its process).
    With `ahead`, and one lane, that function has a `prepare`, which starts to read an item and does not wait: it is
    called for one item more while the function handles another.
    Results are small mappings that JSON can hold: bulk data goes to files, never through Ray.
    """
    gate = _gate.get()
    if not items:
        return
    if local:
        yield from _map_here(items, make, lanes, ahead, gate)
        return
    start_ray()
    import ray.exceptions

    left = dict.fromkeys(range(len(items)))
    lost = f"its worker process died {_RETRIES + 1} times; the shard is left out"
    # Items under way in one process share its death: who is to blame shows when each has a process for itself.
    for abreast, one_more in dict.fromkeys(((lanes, ahead), (1, False))):
        workers = _workers(cpus, gpus)
        # What waits prepared in one worker is not done by another that is idle: only where there is enough for all.
        pool = _Pool(cpus, gpus, workers, abreast, one_more and len(left) >= 2 * workers)
        try:
            for index, result in _map_on_ray([(index, items[index]) for index in left], make, pool):
                del left[index]
                ends = gate(result)
                yield items[index], result
                if ends:
                    return
        except ray.exceptions.RayError as error:
            lost = f"Ray gave up ({str(error).splitlines()[0]})"
        if not left:
            return
    for index in left:
        yield items[index], {"error": lost}


def _map_here(
    items: Sequence[Any], make: Callable[[], Work], lanes: int, ahead: bool, gate: Gate
) -> Iterator[tuple[Any, dict[str, Any]]]:
    work = make()
    pool = ThreadPoolExecutor(lanes)
    try:
        if lanes == 1:
            # In the thread that a signal interrupts: an item may take hours.
            for number, item in enumerate(items):
                if ahead:
                    _prepare(work, items[number : number + 2])
                result = _guarded(work, item)
                ends = gate(result)
                yield item, result
                if ends:
                    return
            return
        turn, ended = threading.Lock(), threading.Event()

        def one(item: Any) -> dict[str, Any] | None:
            if ended.is_set():
                return None
            result = _guarded(work, item)
            # Asked here: by the time that another thread looks, this one would have begun a further item.
            with turn:
                if gate(result):
                    ended.set()
            return result

        under_way = {pool.submit(one, item): item for item in items}
        for future in as_completed(under_way):
            done = future.result()
            if done is not None:
                yield under_way[future], done
    finally:
        # Closed first: where this ends early, that is what ends the items under way.
        pool.shutdown(wait=False, cancel_futures=True)
        getattr(work, "close", lambda: None)()
        pool.shutdown()


def record(account: Account, item: object, result: dict[str, Any], total: int) -> None:
    """Take one result into the account, with a line of progress, and into Ray's metrics where Ray runs."""
    metrics.count(
        account.job, {} if "error" in result else result["counts"], "failed" if "error" in result else "done"
    )
    if "error" in result:
        account.shards_failed[str(item)] = result["error"]
        say(f"{account.job}: {item} failed: {result['error']}")
        return
    account.shards_done += 1
    account.add(result["rows"], result["counts"])
    say(f"{account.job}: {account.shards_done}/{total} {item}: {result['rows']} rows")


def _prepare(work: Work, items: Sequence[Any]) -> None:
    """Let work that can (a worker that could not start cannot) begin to read items."""
    for item in items:
        getattr(work, "prepare", lambda _item: None)(item)


def _guarded(work: Work, item: Any) -> dict[str, Any]:
    try:
        return work(item)
    # The boundary of one shard: whatever went wrong in it is recorded and must not take other shards with it.
    except Exception as error:  # noqa: BLE001
        return {"error": _described(error)}


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")


class _RayWorker:
    """One Ray Data actor: holds what `make` made and handles one item a call.

    With `ahead` there are two calls at a time: one's item is prepared while the other's is handled.
    """

    def __init__(self, make: Callable[[], Work], ahead: bool) -> None:
        self.make, self.ahead = make, ahead
        self.turn = threading.Lock() if ahead else contextlib.nullcontext()
        self.work: Work | None = None
        self.making = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        with self.making:
            # With the first item: Ray bounds the tries of an item, and not those of starting an actor.
            work = self.work = self.work or _made(self.make)
        items = [pickle.loads(item) for item in batch["item"]]
        if self.ahead:
            _prepare(work, items)
        with self.turn:
            results = [_guarded(work, item) for item in items]
        return {"index": list(batch["index"]), "result": [json.dumps(result) for result in results]}


def _made(make: Callable[[], Work]) -> Work:
    """What `make` makes; where it cannot, a function that says so for each item, as the actor's death would not."""
    try:
        return make()
    # The boundary of a worker, as in `_guarded`.
    except Exception as error:  # noqa: BLE001
        text = _described(error)
        return lambda _item: {"error": text}


def _workers(cpus: float, gpus: float) -> int:
    """How many workers fit on the cluster; ConfigError where not one does, since Ray would wait for ever."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return room([node["Resources"] for node in nodes if node["Alive"]], {"CPU": cpus, "GPU": gpus})


def room(nodes: Sequence[Mapping[str, float]], wanted: Mapping[str, float]) -> int:
    """How many workers fit, each whole on one node; ConfigError that names the largest node where not one does."""
    wanted = {name: amount for name, amount in wanted.items() if amount}
    fitting = sum(min(int(node.get(name, 0) / amount) for name, amount in wanted.items()) for node in nodes)
    if fitting:
        return fitting
    for name, amount in wanted.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if amount > most:
            raise ConfigError(
                f"a worker asks for {amount:g} {name}s, Ray has {most:g} on its largest node; lower --{name.lower()}s"
            )
    asked = " and ".join(f"{amount:g} {name}s" for name, amount in wanted.items())
    raise ConfigError(f"a worker asks for {asked}, and no node of Ray's has both; lower --cpus or --gpus")


class _Pool(NamedTuple):
    """How many workers there may be, what each takes, how many items it has under way at once, and one more ahead."""

    cpus: float
    gpus: float
    workers: int
    lanes: int
    ahead: bool


def _map_on_ray(
    items: Sequence[tuple[int, Any]], make: Callable[[], Work], pool: _Pool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """One block an item through a pool of actors; nothing is yielded for items that were given up."""
    import ray.data

    rows = [{"index": index, "item": pickle.dumps(item)} for index, item in items]
    blocks = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to bound an actor's retries than the argument that it means to remove.
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        dataset = blocks.map_batches(
            _RayWorker,
            fn_constructor_args=(make, pool.ahead),
            batch_size=1,
            # A pool that asks for all CPUs starves what feeds it and stops; a tenth is left free.
            num_cpus=0.9 * pool.cpus,
            num_gpus=pool.gpus,
            compute=ray.data.ActorPoolStrategy(
                size=min(pool.workers, math.ceil(len(items) / pool.lanes)),
                # No item waits in a worker's queue: it would share the blame if the worker dies.
                max_tasks_in_flight_per_actor=pool.lanes + pool.ahead,
                max_concurrent_calls_per_actor=pool.lanes + pool.ahead,
                enable_true_multi_threading=True,
            ),
            # Ray would try the same item for ever; here it is named at last.
            ray_remote_args_fn=_bounded_retries,
        )
    for row in dataset.iter_rows():
        yield int(row["index"]), json.loads(row["result"])


def _bounded_retries() -> dict[str, Any]:
    return {"max_restarts": -1, "max_task_retries": _RETRIES}


def run_together(work: Work, item: Any, ranks: int, *, cpus: float = 1.0, gpus: float = 0.0) -> None:
    """Call `work(item)` in `ranks` processes at once, joined into one torch process group (Ray Train).

    Each has `cpus` CPUs and `gpus` GPUs. HeadwaterError with the first failure's text; ConfigError where the cluster
    has not room for all at once, since Ray would wait for ever.
    """
    start_ray()
    import ray.train
    import ray.train.torch

    if _workers(cpus, gpus) < ranks:
        raise ConfigError(
            f"{ranks} processes of {cpus:g} CPUs and {gpus:g} GPUs do not fit on the cluster; lower --ranks or --cpus"
        )

    def together() -> None:
        work(item)

    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    with tempfile.TemporaryDirectory(prefix="headwater-ray-train-") as folder:
        trainer = ray.train.torch.TorchTrainer(
            together,
            scaling_config=ray.train.ScalingConfig(
                num_workers=ranks, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(storage_path=folder),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise HeadwaterError(_first_failure(error)) from error


def _first_failure(error: Exception) -> str:
    """What the first process that failed says, without Ray's words and its trace."""
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return str(error).strip().splitlines()[-1]
    rank, failure = min(failures.items())
    return f"process {rank}: {_described(getattr(failure, '_base_exc', failure))}"
