"""Samples taken down: out of the catalog, of mixtures, and of the files.

headwater remove --root data --uid-file uids.txt --reason "takedown request 17" --asked-by "rights holder"
headwater remove --root data --url-pattern '^https?://example[.]org/' --reason "opt-out of a host" --dry-run
headwater remove --root data --older-than 365 --source laion --reason "retention" --compact

A removal is recorded (`pipelines.store.removals`), then every file that tells of the samples is written again without
them, each in one step: metadata, retries, staged and published rows, sidecars, manifests. Whatever is done is found
done, so that a run that was killed is ended by the next one, with any arguments or none.

`--compact` does the same to the bytes: tars are written again with zeros in the places of the removed samples
(`pipelines.store.blanked`: offsets stay, and so every manifest and index over the other samples), and the catalog is
built anew, since its older segments still hold captions. It is a step of its own because it reads whole tars.
"""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from filters.errors import ConfigError, HeadwaterError, InputError
from pipelines import index, manifest
from pipelines.config import JobConfig
from pipelines.job import Account, job_main, say
from pipelines.lock import FILE as LOCK
from pipelines.store import catalog, publish, removals
from pipelines.store.blanked import blanked
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import REMOVALS
from pipelines.store.segments import FOLDER as SEGMENTS
from pipelines.store.shards import stats

# Where rows lie, and the sidecars that later stages made of them, one folder a fingerprint.
_ROWS = ("metadata", "retries", "adopted", "shards")
_SIDECARS = ("features", "signals", "verdicts", "looks")
_UID = re.compile(r"[0-9a-f]{32}")
_DAY = 86_400.0

# Uids of a file of rows, by its folder and shard: those that a selector chooses.
Chooser = Callable[[str, ShardId], pa.ChunkedArray]


class RemoveConfig(JobConfig):
    """Which samples to remove, and why."""

    uid_file: str | None = Field(None, description="text file of uids, one a line")
    url_pattern: str | None = Field(None, description="regular expression (RE2) that is found in the address")
    older_than: float | None = Field(
        None, ge=0, description="days since the download of the shard; needs --source, and keeps what has no picture"
    )
    source: str | None = Field(None, description="remove only samples of this source")
    reason: str = Field("", description="why, for the record; needed to remove something")
    asked_by: str = Field("", description="who asked for it, for the record")
    compact: bool = Field(False, description="take the bytes out too: tars are rewritten, the catalog is built anew")


def run(config: RemoveConfig) -> dict[str, Any]:
    """Remove samples by uid, address or age; without any of them, end what an earlier run began."""
    root, account = Root(config.root), Account("remove")
    found, counts = _select(root, config)
    account.add(sum(counts.values()), counts)
    if found:
        _record(root, config, found)
    gone = removals.uids(root)
    written = _Files(root, gone)
    written.apply()
    invalid = _mixtures(root, gone)
    _attributions(root, gone)
    digest, state = removals.digest(root), removals.state(root)
    if digest and state.get("applied") != digest:
        state["applied"] = digest
        root.write_json(state, removals.FOLDER, removals.STATE)
    account.extra = {"files_written": written.count, "invalid_mixtures": invalid}
    if config.compact and digest:
        account.extra |= _compact(root, written, state)
        root.write_json(state | {"compacted": digest}, removals.FOLDER, removals.STATE)
    account.check()
    _tell(config, account, invalid)
    return account.summary()


def plan(config: RemoveConfig) -> dict[str, Any]:
    """How many samples would be removed, and which mixtures would be invalid then."""
    root = Root(config.root)
    found, counts = _select(root, config)
    gone = pa.concat_arrays([removals.uids(root), pa.array(found, pa.string())])
    return {"counts": counts, "invalid_mixtures": _invalid(root, gone)}


def _select(root: Root, config: RemoveConfig) -> tuple[list[str], dict[str, int]]:
    """The uids to remove now, and how many are removed, were removed before, or are unknown.

    ConfigError for selectors that do not fit, InputError where none of the uids asked for is known.
    """
    choose, wanted = _chooser(root, config)
    if choose is None:
        return [], {}
    if not config.reason.strip():
        raise ConfigError('--reason: say why, for the record, as in --reason "takedown request 17"')
    places = [(folder, shard) for folder, shard in _places(root) if config.source in (None, shard.source)]
    if not places:
        there = ", ".join(sorted({shard.source for _, shard in _places(root)})) or "none"
        raise InputError(f"{root.url}: holds no rows of {config.source or 'any source'}; there is {there}")
    chosen = {uid for folder, shard in places for uid in choose(folder, shard).to_pylist()}
    before = set(removals.uids(root).to_pylist())
    found = sorted(chosen - before)
    # What a pattern finds of removed rows is nothing: their addresses are gone.
    known = (wanted & before) | chosen
    if wanted and not known:
        raise InputError(f"{config.uid_file}: none of its {len(wanted)} uids is under {root.url}")
    counts = {"removed": len(found), "removed_before": len(known) - len(found), "unknown": len(wanted - known)}
    return found, {name: count for name, count in counts.items() if count}


def _chooser(root: Root, config: RemoveConfig) -> tuple[Chooser | None, set[str]]:
    """The one selector that was given, and the uids that it names; None where there is none and none is needed."""
    given = [name for name in ("uid_file", "url_pattern", "older_than") if getattr(config, name) is not None]
    if len(given) > 1:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{flags}: give one of them at a time")
    if config.uid_file is not None:
        wanted = _read_uids(config.uid_file)
        listed = pa.array(sorted(wanted), pa.string())
        return lambda folder, shard: _uids_where(root, folder, shard, "uid", lambda u: pc.is_in(u, listed)), wanted
    if config.url_pattern is not None:
        pattern = _checked(config.url_pattern)
        matches = lambda urls: pc.match_substring_regex(urls, pattern)  # noqa: E731
        return lambda folder, shard: _uids_where(root, folder, shard, "url", matches), set()
    if config.older_than is not None:
        if config.source is None:
            raise ConfigError("--older-than: whose? give --source too")
        before = time.time() - config.older_than * _DAY
        return lambda folder, shard: _aged(root, folder, shard, before), set()
    if not config.compact and removals.digest(root) == removals.state(root).get("applied", ""):
        raise ConfigError("nothing to remove; give --uid-file, --url-pattern or --older-than, or --compact")
    return None, set()


def _read_uids(name: str) -> set[str]:
    """The uids of a text file (also from `headwater sql "SELECT uid …" --format csv`); InputError if it is none."""
    try:
        lines = [line.strip().strip('"') for line in Path(name).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read ({error})") from error
    found = {number: line for number, line in enumerate(lines, 1) if line and (number, line) != (1, "uid")}
    wrong = next((number for number, line in found.items() if not _UID.fullmatch(line)), None)
    if wrong is not None:
        raise InputError(f"{name}: line {wrong} is {found[wrong][:40]!r}, not a uid of 32 hex characters")
    if not found:
        raise InputError(f"{name}: holds no uids; write one a line")
    return set(found.values())


def _checked(pattern: str) -> str:
    """The pattern, ConfigError where it is none or finds everything."""
    try:
        everything = pc.match_substring_regex(pa.array([""]), pattern)[0].as_py()
    except pa.ArrowInvalid as error:
        text = str(error).removeprefix("Invalid regular expression: ")
        raise ConfigError(f"--url-pattern {pattern!r}: is no regular expression ({text})") from error
    if everything:
        raise ConfigError(
            f"--url-pattern {pattern!r}: is found in every address; name a part of those that are meant"
        )
    return pattern


def _places(root: Root) -> Iterator[tuple[str, ShardId]]:
    """Every file of rows."""
    for folder in _ROWS:
        for shard in root.shards(folder):
            yield folder, shard


def _uids_where(
    root: Root, folder: str, shard: ShardId, column: str, test: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> pa.ChunkedArray:
    names = list(dict.fromkeys(["uid", column]))
    table = root.read_table(folder, shard.source, f"{shard.number}.parquet", columns=names)
    return table.filter(test(table[column]))["uid"]


def _aged(root: Root, folder: str, shard: ShardId, before: float) -> pa.ChunkedArray:
    """The uids of a shard's pictures if its download ended before that time; shards of which nobody knows stay."""
    stats_file = (folder, shard.source, f"{shard.number}_stats.json")
    ended = root.read_json(*stats_file).get("end_time") if folder == "shards" and root.exists(*stats_file) else None
    if ended is None or float(ended) >= before:
        return pa.chunked_array([], pa.string())
    return _uids_where(root, folder, shard, "reason", lambda reasons: pc.equal(reasons, "ok"))


def _record(root: Root, config: RemoveConfig, found: Sequence[str]) -> None:
    day = datetime.datetime.now(datetime.UTC).date()
    count = len(found)
    columns = [found, [config.reason] * count, [day] * count, [config.asked_by] * count]
    removals.record(root, pa.table([pa.array(c, f.type) for c, f in zip(columns, REMOVALS.arrow, strict=True)],
                                   schema=REMOVALS.arrow))  # fmt: skip


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
        for folder, shard in _places(self.root):
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


def _compact(root: Root, written: _Files, state: dict[str, str]) -> dict[str, Any]:
    """Take the removed samples out of the tars, one at a time, and out of the catalog's files."""
    done, adopted = 0, []
    for shard in sorted(written.shards):
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
    if done or written.count or state.get("compacted") != removals.digest(root):
        _compact_catalog(root)
    return {"tars_written": done, "adopted_tars": adopted}


def _compact_catalog(root: Root) -> None:
    """Build the catalog anew, and take away the files of the one before."""
    try:
        path, folder = root.local(catalog.FILE), root.local(SEGMENTS)
    except ConfigError:
        return  # there is none in a root elsewhere
    if not path.exists():
        root.remove_all(SEGMENTS)
        return
    try:
        index.run(index.IndexConfig(root=root.url, rebuild=True))
    except HeadwaterError as error:
        path.unlink()
        root.remove_all(SEGMENTS)
        say(f"remove: the catalog was taken away, run `headwater index` for a new one: {error}")
        return
    publish.sweep(folder, keep=0)


def _tell(config: RemoveConfig, account: Account, invalid: dict[str, int]) -> None:
    say(f"remove: {account.text() or 'nothing new'}; {account.extra['files_written']} files written again")
    for name, count in invalid.items():
        say(f"remove: mixture {name} holds {count} removed uids: its lock is invalid; run `headwater mix` again")
    if account.extra["files_written"] and not config.compact:
        say("remove: run `headwater index` next; `headwater remove --compact` takes the bytes out of the tars")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater remove`."""
    return job_main("remove", RemoveConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
