"""Samples taken down: out of the catalog, of mixtures, and of the files.

headwater remove --root data --uid-file uids.txt --reason "takedown request 17" --asked-by "rights holder"
headwater remove --root data --url-pattern '^https?://example[.]org/' --reason "opt-out of a host" --dry-run
headwater remove --root data --older-than 365 --source laion --reason "retention" --compact

A removal is recorded (`pipelines.store.removals`), then every file that tells of the samples is written again without
them, each in one step: metadata, retries, staged and published rows, sidecars, manifests. Whatever is done is found
done, so that a run that was killed is ended by the next one, with any arguments or none.

`--compact` does the same to the bytes: tars are written again with zeros in the places of the removed samples
(`pipelines.store.shards.blanked`: offsets stay, and so every manifest and index over the other samples), and the
catalog is built anew, since its older segments still hold captions. It is a step of its own because it reads whole
tars.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import HeadwaterError
from pipelines import index, manifest
from pipelines.job import Account, job_main, say
from pipelines.lock import FILE as LOCK
from pipelines.selection import Selection, places, select
from pipelines.store import catalog, publish, removals
from pipelines.store.mirror import FILE, shelf
from pipelines.store.mirror import FOLDER as SEGMENTS
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import blanked, stats

# What later stages made of the rows, one folder a fingerprint.
_SIDECARS = ("features", "signals", "verdicts", "looks")


def run(config: Selection) -> dict[str, Any]:
    """Remove samples by uid, address or age; without any of them, end what an earlier run began."""
    root, account = Root(config.root), Account("remove")
    found, counts = select(root, config)
    account.add(sum(counts.values()), counts)
    if found:
        removals.record(root, found, config.reason, config.asked_by)
    gone = removals.uids(root)
    written = _Files(root, gone)
    written.apply()
    invalid = _mixtures(root, gone)
    _attributions(root, gone)
    digest, state = removals.digest(root), removals.state(root)
    if digest and (state.get("applied") != digest or written.count):
        state = {"applied": digest}  # what was written now is to be compacted
        root.write_json(state, removals.FOLDER, removals.STATE)
    account.extra = {"files_written": written.count, "invalid_mixtures": invalid}
    if config.compact:
        is_done = state.get("compacted", "") == digest
        account.extra |= {"tars_written": 0, "adopted_tars": []} if is_done else _compact(root, written.shards)
        if not is_done:
            root.write_json(state | {"compacted": digest}, removals.FOLDER, removals.STATE)
    account.check()
    _tell(config, account, invalid)
    return account.summary()


def plan(config: Selection) -> dict[str, Any]:
    """How many samples would be removed, and which mixtures would be invalid then."""
    root = Root(config.root)
    found, counts = select(root, config)
    gone = pa.concat_arrays([removals.uids(root), pa.array(found, pa.string())])
    return {"counts": counts, "invalid_mixtures": _invalid(root, gone)}


class _Files:
    """Rows and sidecars without what is `gone`; `shards` hold a removed row, `count` files were written."""

    def __init__(self, root: Root, gone: pa.Array) -> None:
        self.root, self.gone = root, gone
        self.shards: set[ShardId] = set()
        self.count = 0

    def apply(self) -> None:
        """Write again what still tells of them; what does not is left alone."""
        if not len(self.gone):
            return
        for folder, shard in places(self.root):
            self._rows(folder, shard)
        for folder in _SIDECARS:
            for made_with in self.root.names(folder):
                for shard in sorted(self.shards):
                    if self.root.exists(folder, made_with, shard.source, f"{shard.number}.parquet"):
                        self._write(["uid"], folder, made_with, shard.source, f"{shard.number}.parquet")

    def _rows(self, folder: str, shard: ShardId) -> None:
        names = ["uid", "reason", "duplicate_row_of"]
        if self._write(names, folder, shard.source, f"{shard.number}.parquet"):
            self.shards.add(shard)

    def _write(self, names: list[str], *parts: str) -> bool:
        """Whether a file has rows that are gone; it is written again unless they are told as removed already."""
        found = self.root.read_table(*parts, columns=names)
        hits = removals.hits(found, self.gone)
        if not pc.any(hits).as_py():
            return False
        told = found.filter(hits)["reason"].unique().to_pylist() if "reason" in names else []
        if told != [removals.REASON]:
            table = removals.withheld(self.root.read_table(*parts), self.gone)
            if parts[0] == "shards":
                self._count_again(table, parts[1], parts[2].removesuffix(".parquet"))
            self.root.write_table(table, *parts)
            self.count += 1
        return True

    def _count_again(self, table: pa.Table, source: str, number: str) -> None:
        place = ("shards", source, f"{number}_stats.json")
        if self.root.exists(*place):
            new = stats(table, Counter(table["status"].to_pylist()), {})
            self.root.write_json(self.root.read_json(*place) | new, *place)


def _invalid(root: Root, gone: pa.Array) -> dict[str, int]:
    """The mixtures whose locks no longer hold, with the number of their uids that are gone."""
    counts = {name: removals.count_in(root, name, gone) for name in catalog.mixture_names(root)}
    return {name: count for name, count in counts.items() if count}


def _mixtures(root: Root, gone: pa.Array) -> dict[str, int]:
    """Take what is gone out of manifests and exports; the mixtures that are no longer what their locks say.

    Lock and uid list stay, as evidence of what was drawn; `headwater mix` draws the mixture anew.
    """
    found = _invalid(root, gone)
    for name in found:
        place = ("mixes", name, manifest.FILE)
        for other in set(root.names("mixes", name)) - {manifest.FILE, manifest.UIDS, LOCK}:
            root.remove_all("mixes", name, other)
        if pc.any(removals.hits(root.read_table(*place, columns=["uid"]), gone)).as_py():
            groups = (removals.withheld(group, gone) for group in root.read_groups(*place))
            batches = (batch for group in groups for batch in group.to_batches())
            with root.writing(*place) as file:
                manifest.write(manifest.row_groups(batches), file, {})
    return found


def _attributions(root: Root, gone: pa.Array) -> None:
    """Take away the pictures that `headwater attribute` drew of them."""
    uids = set(gone.to_pylist())
    for folder in root.names("attributions"):
        for name in root.names("attributions", folder):
            if name.split(".", 1)[0] in uids:
                root.remove("attributions", folder, name)


def _compact(root: Root, shards: Collection[ShardId]) -> dict[str, Any]:
    """Take the removed samples out of the tars, one at a time, and out of the catalog's files."""
    done, adopted = 0, []
    for shard in sorted(shards):
        place = ("shards", shard.source, f"{shard.number}.tar")
        if not root.exists(*place):
            continue
        if Path(root.path(*place)).is_symlink():
            adopted.append(str(Path(root.path(*place)).resolve()))
            continue
        rows = root.read_table("shards", shard.source, f"{shard.number}.parquet", columns=["key", "reason"])
        keys = set(rows.filter(pc.equal(rows["reason"], removals.REASON))["key"].to_pylist())
        tar = blanked(root.read_bytes(*place), keys, root.path(*place))
        if tar is not None:
            root.write_bytes(tar, *place)
            done += 1
            say(f"remove: {shard}: rewritten")
    for path in adopted:
        say(f"remove: {path} is yours and was left as it is; it still holds removed pictures")
    _compact_catalog(root)
    return {"tars_written": done, "adopted_tars": adopted}


def _compact_catalog(root: Root) -> None:
    """Build the catalog anew, and take away the files of the one before."""
    if not root.exists(FILE):
        root.remove_all(SEGMENTS)
        return
    try:
        index.run(index.IndexConfig(root=root.url, rebuild=True))
    except HeadwaterError as error:
        root.remove(FILE)
        root.remove_all(SEGMENTS)
        say(f"remove: the catalog was taken away, run `headwater index` for a new one: {error}")
        return
    files = shelf(root)
    publish.sweep(files, files.catalog(), keep=0)


def _tell(config: Selection, account: Account, invalid: dict[str, int]) -> None:
    say(f"remove: {account.text() or 'nothing new'}; {account.extra['files_written']} files written again")
    for name, count in invalid.items():
        say(f"remove: mixture {name} holds {count} removed uids: its lock is invalid; run `headwater mix` again")
    if account.extra["files_written"] and not config.compact:
        say("remove: run `headwater index` next; `headwater remove --compact` takes the bytes out of the tars")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater remove`."""
    return job_main("remove", Selection, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
