"""The plan of merges: rows are written a bounded number of times, and files stay few."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.store.levels import BASE, FAN, MAX_HIDDEN, Run, level, to_merge

CAP = BASE * FAN**4


def test_levels_grow_by_the_fan() -> None:
    assert [level(rows) for rows in (0, 1, BASE * FAN - 1, BASE * FAN, BASE * FAN**2)] == [0, 0, 0, 1, 2]


def test_files_of_one_level_wait_for_the_fan() -> None:
    runs = [Run(str(i), BASE) for i in range(FAN - 2)]
    assert to_merge(runs, BASE, CAP) == []
    runs.append(Run("last", BASE))
    assert to_merge(runs, BASE, CAP) == runs


def test_a_merge_goes_on_to_the_next_level_in_one_go() -> None:
    small = [Run(f"s{i}", BASE) for i in range(FAN - 1)]
    large = [Run(f"l{i}", FAN * BASE) for i in range(FAN - 1)]
    assert to_merge([*large, *small], BASE, CAP) == [*small, *large]


def test_what_hides_too_much_is_written_again_and_large_files_are_left() -> None:
    hides, large = Run("hides", 1000, hidden=251), Run("large", CAP // 2)
    assert to_merge([hides, large, Run("some", 1000, hidden=250)], 0, CAP) == [hides]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40 * BASE), min_size=1, max_size=200), st.integers(0, 2**32))
def test_rows_written_are_a_bounded_multiple_of_rows_added(added: list[int], seed: int) -> None:
    """Also where an eighth of the largest file is hidden each time; hidden rows may cost 1 / MAX_HIDDEN each."""
    runs: list[Run] = []
    written = hidden = 0
    for number, fresh in enumerate(added):
        if runs and (seed >> (number % 32)) & 1:
            victim = max(runs, key=lambda run: run.rows)
            more = min(victim.live, victim.rows // 8)
            hidden += more
            runs[runs.index(victim)] = Run(victim.name, victim.rows, victim.hidden + more)
        merged = to_merge(runs, fresh, CAP)
        runs = [run for run in runs if run not in merged]
        total = fresh + sum(run.live for run in merged)
        written += total
        pieces = -(-total // CAP)
        runs += [Run(f"{number}.{piece}", total // pieces) for piece in range(pieces)]
        assert len([run for run in runs if 2 * run.rows < CAP]) <= FAN * (level(CAP) + 2)
    tiers = math.log(CAP / BASE, FAN) + 2
    assert written <= tiers * sum(added) + (1 / MAX_HIDDEN + tiers) * hidden
