"""The ledger of hosts: slots, starts, turns and leases, by a clock that the test sets."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest

from pipelines.web import rules
from pipelines.web.config import FetchConfig, HostLimit
from pipelines.web.hosts import LEASE, SLACK, TURN, Answer, Ask, Ledger, Report
from pipelines.web.texts import KEPT, KEPT_FAILURE, Text, Texts

HOST = "a.test"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledger(concurrency: int, rate: float | None = None, **config: Any) -> tuple[Ledger, Clock]:
    clock = Clock()
    settings = FetchConfig(limit=HostLimit(concurrency=concurrency, rate=rate), **config)
    return Ledger(settings, clock=clock), clock


def ask(book: Ledger, worker: str, wanted: int, slots: int = 0, starts: int = 0, **more: float) -> Any:
    return book.exchange(worker, Report({HOST: Ask(wanted, slots, starts, **more)})).leases[HOST]


def test_one_worker_gets_what_it_wants_up_to_the_hosts_concurrency() -> None:
    book, _ = ledger(4)
    assert ask(book, "a", 3).slots == 3
    assert ask(book, "a", 9, slots=3).slots == 4
    assert ask(book, "a", 9, slots=3).starts is None


def test_a_second_worker_gets_its_share_as_the_first_gives_back() -> None:
    book, _ = ledger(4)
    assert ask(book, "a", 9).slots == 4
    assert ask(book, "b", 9).slots == 0
    assert ask(book, "a", 9, slots=4).slots == 2
    assert ask(book, "b", 9).slots == 0
    assert ask(book, "a", 9, slots=2).slots == 2
    assert ask(book, "b", 9).slots == 2
    assert ask(book, "a", 9, slots=2).slots == 2


def test_more_workers_than_slots_take_turns() -> None:
    """Each gives its slot back when told to, and no one of four gets far more turns than another."""
    book, clock = ledger(2)
    held = dict.fromkeys("abcd", 0)
    target = dict.fromkeys("abcd", 0)
    turns = dict.fromkeys("abcd", 0)
    for _ in range(2000):
        for worker in held:
            clock.now += 0.02
            kept = min(held[worker], target[worker])
            target[worker] = ask(book, worker, 5, slots=kept).slots
            held[worker] = max(kept, target[worker])
            turns[worker] += held[worker] > kept
            assert sum(held.values()) <= 2
    assert max(turns.values()) <= min(turns.values()) + 2
    assert 0.8 * 160 / TURN * 2 <= sum(turns.values()) <= 160 / TURN * 2


def test_starts_never_make_more_than_the_rate_in_any_second_and_nearly_as_many() -> None:
    book, clock = ledger(64, rate=20.0)
    rng = random.Random(0)
    starts: list[float] = []
    end = clock.now + 20
    while clock.now < end:
        clock.now += rng.uniform(0, 0.1)
        worker = rng.choice("abc")
        starts += ask(book, worker, 20, slots=20, starts=20).starts
    assert starts == sorted(starts)
    most = max(sum(at <= other < at + 1 for other in starts) for at in starts)
    assert most <= 20
    assert len(starts) >= 0.9 * 20 * 20 / (1 + SLACK)


def test_starts_are_shared_fairly_and_not_given_for_nothing() -> None:
    book, clock = ledger(64, rate=10.0)
    got = {"a": 0, "b": 0, "idle": 0}
    for _ in range(200):
        clock.now += 0.05
        for worker in got:
            got[worker] += len(ask(book, worker, 20, slots=20, starts=0 if worker == "idle" else 20).starts)
    assert got["idle"] == 0
    assert abs(got["a"] - got["b"]) <= 8
    assert got["a"] + got["b"] >= 85


def test_a_worker_without_a_slot_takes_no_starts_from_others() -> None:
    book, _ = ledger(1, rate=10.0)
    assert len(ask(book, "a", 9, starts=9).starts) == 5
    assert ask(book, "b", 9, starts=9).starts == ()


def test_a_slot_that_is_only_kept_warm_is_the_first_to_go() -> None:
    book, _ = ledger(4)
    assert ask(book, "a", 4).slots == 4
    assert ask(book, "a", 0, slots=3).slots == 3
    assert ask(book, "b", 4).slots == 1
    assert ask(book, "a", 0, slots=3).slots == 0


def test_a_pause_holds_for_all_and_ends() -> None:
    book, clock = ledger(8, rate=100.0)
    ask(book, "a", 1, slots=1, pause=30.0)
    lease = ask(book, "b", 5, starts=5)
    assert lease.resume == clock.now + 30
    assert lease.starts == ()
    clock.now += 30
    assert ask(book, "b", 5, slots=5, starts=5).starts[0] == clock.now


def test_a_crawl_delay_spaces_the_starts_of_all() -> None:
    book, clock = ledger(8, rate=None)
    given: list[tuple[float, str]] = []
    for _ in range(200):
        for worker in "ab":
            clock.now += 0.05
            given += [(at, worker) for at in ask(book, worker, 5, slots=1, starts=5, delay=2.0).starts]
    times = [at for at, _ in given]
    assert min(later - at for at, later in pairwise(times)) >= 2.0
    assert len(times) >= 9
    workers = [worker for _, worker in given]
    assert abs(workers.count("a") - workers.count("b")) <= 2


def test_leases_end_with_their_worker() -> None:
    book, clock = ledger(4)
    assert ask(book, "dead", 9).slots == 4
    clock.now += LEASE
    assert ask(book, "b", 9).slots == 0
    clock.now += LEASE / 2
    assert ask(book, "b", 9).slots == 4


def test_a_new_ledger_listens_before_it_grants() -> None:
    clock = Clock()
    book = Ledger(FetchConfig(limit=HostLimit(concurrency=4, rate=10.0)), quiet=1.0, clock=clock)
    assert ask(book, "a", 9, starts=9) == (0, (), 0.0)
    assert ask(book, "b", 9, slots=3).slots == 3
    clock.now += 1
    assert ask(book, "a", 9).slots == 1


def test_hosts_have_limits_of_their_own_and_are_forgotten() -> None:
    book, clock = ledger(4, hosts={"*.slow.test": HostLimit(concurrency=1)})
    asks = {"a.slow.test": Ask(9, 0, 9), HOST: Ask(9, 0, 9)}
    leases = book.exchange("a", Report(asks)).leases
    assert (leases["a.slow.test"].slots, leases[HOST].slots) == (1, 4)
    book.exchange("a", Report({name: Ask(0, 0, 0) for name in asks}))
    clock.now += LEASE
    book.exchange("a", Report({}))
    assert not book._hosts


def test_what_is_waited_for_is_told_by_host_the_largest_first() -> None:
    book, clock = ledger(2)
    assert book.waiting().text() == ""
    book.exchange("a", Report({"a.test": Ask(900, 0, 900), "b.test": Ask(5, 0, 5)}, later={"d.test": 5}))
    book.exchange("b", Report({"a.test": Ask(100, 0, 9, pause=60.0), "d.test": Ask(2, 0, 7), "e.test": Ask(1, 0, 1)}))
    clock.now += 1
    told = "a.test 1,000 (paused for 59 s), d.test 7, b.test 5"
    assert book.waiting().text() == f"2 shards under way, 1,013 rows wait for their hosts, most for {told}"
    gone = {name: Ask(0, 0, 0) for name in ("a.test", "b.test", "d.test", "e.test")}
    book.exchange("b", Report(gone, later={}))
    clock.now += LEASE / 4 - 0.5
    book.exchange("b", Report({}))
    assert (book.waiting().shards, book.waiting().rows) == (1, 910)
    book.exchange("a", Report(gone, later={}))
    assert book.waiting().text() == "2 shards under way, no row waits for its host"


def test_one_worker_fetches_a_robots_file_for_all() -> None:
    book, clock = ledger(4)

    def texts(worker: str, **found: Text | None) -> Answer:
        return book.exchange(
            worker, Report({}, ("http://a.test",), {f"http://{k}.test": v for k, v in found.items()})
        )

    assert texts("a").texts == {"http://a.test": None}
    assert texts("b").texts == {}
    assert texts("b").texts == {}
    book.exchange("a", Report({}, (), {"http://a.test": Text("ok", "User-agent: *")}))
    assert texts("b").texts == {"http://a.test": Text("ok", "User-agent: *")}
    clock.now += KEPT
    assert texts("c").texts == {"http://a.test": None}


def test_a_robots_file_is_fetched_by_another_when_its_worker_dies_or_gives_up() -> None:
    book, clock = ledger(4)
    lacking = Report({}, ("http://a.test",))
    assert book.exchange("a", lacking).texts == {"http://a.test": None}
    book.exchange("a", Report({}, (), {"http://a.test": None}))
    assert book.exchange("b", lacking).texts == {"http://a.test": None}
    for _ in range(8):
        clock.now += LEASE / 4
        last = book.exchange("c", lacking)
    assert last.texts == {"http://a.test": None}


def test_robots_files_are_bounded_and_failures_soon_tried_again() -> None:
    texts = Texts(held=100_000)
    noise = random.Random(0)
    for i in range(200):
        texts.put(str(i), Text("ok", noise.randbytes(1000).hex()), now=0.0)
    known = [i for i in range(200) if texts.take("a", [str(i)], now=1.0)[str(i)] is not None]
    assert known == list(range(known[0], 200))
    assert 50 <= len(known) <= 100
    texts.put("down", Text("http_5xx"), now=0.0)
    assert texts.take("b", ["down"], now=KEPT_FAILURE - 1) == {"down": Text("http_5xx")}
    assert texts.take("b", ["down"], now=KEPT_FAILURE + 1) == {"down": None}


def test_the_rules_that_a_worker_holds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "HELD", 10_000)
    book = rules.Rulebook("headwater/0.1")
    for i in range(30):
        # Each origin twice, as when a file is asked for anew.
        for _ in range(2):
            book.learn(f"http://{i}.test", Text("ok", "User-agent: *\nDisallow: /private\n" + "#" * 900))
            assert book.of(f"http://{i}.test") is not None
    known = [i for i in range(30) if book.of(f"http://{i}.test")]
    assert known == list(range(known[0], 30))
    assert 8 <= len(known) <= 10
