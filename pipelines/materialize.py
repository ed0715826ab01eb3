"""A mixture to files that other trainers read: shuffled tars, tars by source, or parquet for Hugging Face.

headwater materialize --root data --mixture even
ray submit ray_cluster.yaml pipelines/materialize.py -- --root data --mixture even --layout by_source
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field

from filters.errors import BudgetExceeded, HeadwaterError, InputError
from pipelines.config import JobConfig
from pipelines.engine import map_shards, record
from pipelines.exports.card import CARD, write_card
from pipelines.exports.handoff import Results, check_names, finals, hand_over, lost_shards
from pipelines.exports.plan import Contents, Export, Form, Layout, Piece, contents, pieces
from pipelines.exports.uses import open_manifest
from pipelines.exports.write import finished, make_work
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from pipelines.store.schema import SCHEMA_VERSION

# Shards that are named one by one in the summary and in the progress.
_NAMED = 20


class MaterializeConfig(JobConfig):
    """Which mixture, and in which form."""

    mixture: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the mixture")
    layout: Layout = Field(
        "mixed",
        description="mixed: the rows in the mixture's order, repeats too; by_source: each sample once, a source's "
        "files by themselves",
    )
    form: Form = Field(
        "tars", description="tars: webdataset, for open_clip and DataComp; hf: parquet, for Hugging Face `datasets`"
    )
    samples_per_shard: int = Field(1000, ge=1, description="samples a file")


def run(config: MaterializeConfig) -> dict[str, Any]:
    """Copy a mixture's pictures and captions into files for other trainers; files that are there are left alone."""
    root, account = Root(config.root), Account("materialize")
    export, there = _open(root, config)
    planned = pieces(export, there, config.samples_per_shard)
    results: dict[Piece, dict[str, Any]] = {p: done for p in planned if (done := finished(root, export, p))}
    account.shards_skipped = len(results)
    for done in results.values():
        account.add(done["rows"], done["counts"])
    todo = [piece for piece in planned if piece not in results]
    _clear(root, export, planned, is_changed=bool(todo))
    for piece, result in map_shards(todo, partial(make_work, config.root, export), local=config.local):
        record(account, piece, result, len(todo))
        if "error" not in result:
            results[piece] = result
    account.check(config.max_failed_fraction)
    if account.shards_failed:
        name, why = next(iter(account.shards_failed.items()))
        raise HeadwaterError(
            f"materialize: {len(account.shards_failed)} of {len(planned)} files could not be written; first: {name}: "
            f"{why}; run the same command again for these"
        )
    return _close(root, config, export, there, {p: results[p] for p in planned}, account)


def plan(config: MaterializeConfig) -> dict[str, Any]:
    """How many files a run would write, and how large they would be together."""
    root = Root(config.root)
    export, there = _open(root, config)
    planned = pieces(export, there, config.samples_per_shard)
    return {
        "mixture": config.mixture,
        "folder": root.path(*export.folder),
        "files": len(planned),
        "rows": sum(piece.rows for piece in planned),
        "bytes_of_pictures_with_repeats": there.bytes,
    }


def _open(root: Root, config: MaterializeConfig) -> tuple[Export, Contents]:
    """The export and what is in its mixture; InputError for one without rows."""
    with open_manifest(root, config.mixture) as manifest:
        there = contents(manifest)
    if not there.uses:
        raise InputError(f"{root.path('mixes', config.mixture)}: the mixture is empty; build it again")
    digest = hashlib.sha256()
    with root.reading("mixes", config.mixture, "manifest.parquet") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    mark = fingerprint(SCHEMA_VERSION, digest.hexdigest(), config.layout, config.form, config.samples_per_shard)
    export = Export(config.mixture, config.layout, config.form, mark)
    if export.form == "tars":
        check_names(root, export, there.uses)
    return export, there


def _clear(root: Root, export: Export, planned: Sequence[Piece], *, is_changed: bool) -> None:
    """Take away what earlier settings left, and where files are to change what says that they are all there."""
    if is_changed:
        for path in finals(export) if export.form == "tars" else [(*export.folder, CARD)]:
            root.remove(*path)
    wanted = {piece.path for piece in planned} | {(f"{piece.name}_stats.json",) for piece in planned}
    for path in _files(root, export):
        if path not in wanted:
            root.remove(*export.folder, *path)
    for name in root.names(*export.scratch):
        root.remove(*export.scratch, name)
    accounts = {f"{piece.name}.parquet" for piece in planned}
    for name in set(root.names(*export.accounts, suffix=".parquet")) - accounts:
        root.remove(*export.accounts, name)


def _files(root: Root, export: Export) -> list[tuple[str, ...]]:
    """The paths of an export's files, of this run and of earlier ones."""
    if export.form == "tars":
        return [(name,) for end in (".tar", "_stats.json") for name in root.names(*export.folder, suffix=end)]
    folders = [("data",), *(("data", name) for name in root.names(*export.folder, "data"))]
    return [(*f, name) for f in folders for name in root.names(*export.folder, *f, suffix=".parquet")]


def _close(
    root: Root, config: MaterializeConfig, export: Export, there: Contents, results: Results, account: Account
) -> dict[str, Any]:
    """Write what completes the export, say what it lacks, and sum up."""
    lost = lost_shards(list(results.values()))
    failed = sum(shard["rows"] for shard in lost.values())
    account.extra = {
        "mixture": export.mixture,
        "folder": root.path(*export.folder),
        "files": len(results),
        "samples": account.rows_in - failed,
        "unreadable": {shard: lost[shard] for shard in list(lost)[:_NAMED]},
        "unreadable_shards": len(lost),
    }
    for shard, what in account.extra["unreadable"].items():
        say(f"materialize: {shard}: {what['rows']} rows cannot be read, first: {what['why']}")
    if export.form == "hf":
        write_card(root, export, there, failed)
    else:
        call = hand_over(root, export, there, results, config.samples_per_shard)
        account.extra["command"] = call["command"]
        say(f"materialize: to train on it: {call['command']}")
    say(f"materialize: {export.mixture}: {len(results)} files, {account.text()}")
    if failed / account.rows_in > config.max_failed_fraction:
        raise BudgetExceeded(
            f"{failed} of {account.rows_in} rows cannot be read, more than "
            f"max_failed_fraction={config.max_failed_fraction}; first: {next(iter(lost.values()))['why']}",
            account.summary(),
        )
    return account.summary()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater materialize`."""
    return job_main("materialize", MaterializeConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
