"""Fifty faults at seeded moments of the chain: how many were survived, as a table of stage and fault.

python -m tests.chaos
python -m tests.chaos --trials 8 --seed 3
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos import faults
from tests.chaos.trials import Outcome, chaos, faketime, planned


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials; 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further trial after so many")
    parser.add_argument("--fault", help="only this one")
    parser.add_argument("--stage", help="only this one")
    given = parser.parse_args(argv)
    began = time.monotonic()
    if not faults.can_mount():
        print("chaos: no file system can be mounted here: a limit on a file's size stands in for a full disk")
    if not faketime():
        print("chaos: libfaketime is not installed: no clock is changed")
    # A short path: Ray's sockets lie in it, and their names may have 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="hwc", ignore_cleanup_errors=True) as folder,
        chaos(Path(folder) / "c") as made,
        ThreadPoolExecutor(given.jobs) as pool,
    ):
        total = sum(span.last for span in made.spans.values())
        print(f"chaos: the chain took {total:.0f} s undisturbed", flush=True)
        trials = [
            trial
            for trial in planned(made.stages, given.trials, given.seed)
            if given.fault in (None, trial.fault) and given.stage in (None, trial.stage.name)
        ]
        outcomes = []
        until = began + given.seconds
        for done in pool.map(lambda trial: made.run(trial) if time.monotonic() < until else None, trials):
            if done is not None:
                outcomes.append(done)
                print(line(done), flush=True)
    print(table(outcomes))
    if len(outcomes) < len(trials):
        print(f"not started for want of time: {len(trials) - len(outcomes)}")
    return int(any(outcome.lost for outcome in outcomes))


def line(outcome: Outcome) -> str:
    """One trial in words."""
    trial = outcome.trial
    state = "not tried" if not outcome.tried else "LOST" if outcome.lost else "survived"
    where = f"{trial.stage.name} {'on Ray' if trial.on_ray else 'local'}"
    said = "; ".join([*outcome.notes, *outcome.lost[:6]])
    return f"{trial.seed} {where}: {trial.fault}: {state} ({outcome.seconds:.0f} s, {outcome.misses} misses): {said}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Survived of tried for each stage and fault, and for all."""
    cells: Counter[tuple[str, str, bool]] = Counter()
    for outcome in outcomes:
        if outcome.tried:
            trial = outcome.trial
            for stage, fault in itertools.product((trial.stage.name, "all"), (trial.fault, "all")):
                cells[stage, fault, not outcome.lost] += 1
    stages = [*dict.fromkeys(outcome.trial.stage.name for outcome in outcomes), "all"]
    kinds = [*dict.fromkeys(outcome.trial.fault for outcome in outcomes), "all"]
    rows = ["".join(f"{word:>10}" for word in ("", *kinds))]
    for stage in stages:
        counts = [(cells[stage, fault, True], cells[stage, fault, False]) for fault in kinds]
        rows.append("".join(f"{word:>10}" for word in (stage, *(f"{a}/{a + b}" if a + b else "" for a, b in counts))))
    tried = [outcome for outcome in outcomes if outcome.tried]
    survived = sum(not outcome.lost for outcome in tried)
    misses = sum(outcome.misses for outcome in outcomes)
    rows.append(f"survived {survived} of {len(tried)} tried; {misses} draws missed and were drawn again")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
