"""The three methods of `evaluation/` against plain loops over pictures, written as the papers' code has them.

    python -m benchmarks.methods [--quick] [--gpu] [--only NAME]

Each method has a module of its own, `benchmarks/method_NAME.py`, which says what its loop is and what its goals are
for. Needs neither Ray nor weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch

# What runs each method: a function (quick, gpu) that prints its table and gives figures, goals and what is met.
METHODS = {
    "m2ib": "benchmarks.method_m2ib",
    "tpt": "benchmarks.method_tpt",
    "umfc": "benchmarks.method_umfc",
}


def load(name: str) -> Callable[[bool, bool], dict[str, Any]] | None:
    """The `run` of a method; None where its module is not there."""
    try:
        module = importlib.import_module(METHODS[name])
    except ModuleNotFoundError as error:
        if error.name != METHODS[name]:
            raise
        return None
    found: Callable[[bool, bool], dict[str, Any]] = module.run
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables and one JSON line; exit code 0 whether or not the goals are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pictures and rounds")
    parser.add_argument("--gpu", action="store_true", help="the parts that need a GPU, instead of the CPU's")
    parser.add_argument("--only", choices=METHODS, help="this method alone")
    arguments = parser.parse_args(argv)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, open_clip {open_clip.__version__}, Python {platform.python_version()}"
    )
    result: dict[str, dict[str, Any]] = {"figures": {}, "goals": {}, "met": {}}
    for name in [arguments.only] if arguments.only else METHODS:
        print(f"\n{name}")
        run = load(name)
        if run is None:
            print(f"not measured: {METHODS[name]} is not here")
            continue
        found = run(arguments.quick, arguments.gpu)
        for part, values in result.items():
            values |= {f"{name} {key}": value for key, value in found[part].items()}
    print(json.dumps({"benchmark": "methods", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
