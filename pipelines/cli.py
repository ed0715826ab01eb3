"""The `headwater` command: one subcommand a job."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from functools import partial

# Command → (module, what it does). Modules are imported when called, so that `--help` is quick.
COMMANDS: dict[str, tuple[str, str]] = {
    "ingest": ("pipelines.ingest", "raw metadata of a source to canonical rows"),
    "download": ("pipelines.download", "rows to shards of pictures and captions"),
    "failures": ("pipelines.failures", "why rows failed, at which hosts, and what to try"),
    "adopt": ("pipelines.adopt", "tars that are there already to shards"),
    "score": ("pipelines.score", "CLIP embeddings and scores of each pair"),
    "signals": ("pipelines.signals", "caption, language, cluster and other signals of each pair"),
    "dedupe": ("pipelines.dedupe", "duplicates, and overlap with evaluation sets"),
    "index": ("pipelines.index", "published files to the catalog"),
    "mix": ("pipelines.build_mix", "a page of YAML to a mixture"),
    "remove": ("pipelines.remove", "samples taken down: out of catalog, mixtures and files"),
    "materialize": ("pipelines.materialize", "a mixture to tars or parquet files for other trainers"),
    "train": ("pipelines.train", "mixtures to CLIP models"),
    "evaluate": ("pipelines.evaluate", "models on a reference and on shifted test sets"),
    "results": ("pipelines.results", "results shown, class by class, and to and from other tools"),
    "probe": ("pipelines.probe", "linear probes and few-shot classifiers on models' features"),
    "compare": ("pipelines.compare", "two evaluated models, set by set, with a test"),
    "robustness": ("pipelines.robustness", "accuracies under shift to lines and effective robustness"),
    "advise": ("pipelines.advise", "runs so far to the next mixture, with a prediction"),
    "study": ("pipelines.study", "subsets, mixtures and ensembles of sources, trained and evaluated run by run"),
    "theory": ("pipelines.theory", "why mixtures are less robust than their best source, in plots and numbers"),
    "power": ("pipelines.power", "how many pictures, sizes and seeds a study needs"),
    "attribute": ("pipelines.attribute", "pairs to pictures of what a model's match rests on"),
    "report": ("pipelines.report", "results to one HTML page"),
    "curate": ("pipelines.curate", "the whole chain for what is new, up to mixtures and report"),
    "schedule": ("pipelines.schedule", "commands at their times, with a page that says how they went"),
    "sql": ("pipelines.sql", "a question to the catalog"),
    "schema": ("pipelines.sql", "columns of the catalog with their meaning"),
    "explain": ("pipelines.sql", "one sample's history"),
    "mix-diff": ("pipelines.sql", "what entered and left between two mixtures"),
    "demo": ("demo.run", "the whole chain on the demo's six sources"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; exit codes: 0 done, 1 failed, 2 bad config or input, 3 too many failures."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(importlib.metadata.version("headwater"))
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"headwater: unknown command {command!r}; one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    run = importlib.import_module(COMMANDS[command][0]).main
    # One module answers several commands where they share their work.
    return int((partial(run, command) if COMMANDS[command][0] == "pipelines.sql" else run)(rest))


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: headwater COMMAND [options]",
            "",
            *lines,
            "",
            "`headwater COMMAND --help` lists a command's options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
