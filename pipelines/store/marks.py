"""What the catalog's rows of one shard are made from, and whether it is still what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.sources import datacomp
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.stages import Sidecars

_DECLARED = frozenset(model.folder for model in datacomp.MODELS)


@dataclass(frozen=True, slots=True)
class Part:
    """One shard with its sidecars. `stat` tells cheaply that no file was touched, `mark` says what they hold."""

    shard: ShardId
    stat: str
    mark: str


def files_of(shard: ShardId, sidecars: Sequence[Sidecars]) -> list[tuple[str, ...]]:
    """The files, shard first, that the catalog's rows of `shard` come from; sidecars may not be there."""
    name = f"{shard.number}.parquet"
    places = [("shards",), *((side.stage.folder, side.made_with or "") for side in sidecars)]
    return [(*place, shard.source, name) for place in places]


def find_parts(
    root: Root, sidecars: Sequence[Sidecars], layout: str, known: Mapping[ShardId, Part]
) -> dict[ShardId, Part]:
    """Every published shard as it is now; footers are only read of files that were touched since `known`.

    A file's fingerprint is no proof (verdicts change under one name when a later shard brings a better survivor), so
    that sizes, times and footers are compared too.
    """
    shards = root.shards("shards")
    listed = _listings(root, sidecars)
    inherited = _inherited(root, sidecars, listed)
    found = {}
    for shard in shards:
        files = files_of(shard, sidecars)
        is_retry = shard.number in listed["retries", shard.source]
        touched, holds = inherited.get(shard.source, ("", "")) if is_retry else ("", "")
        stat = fingerprint(layout, touched, [listed[f[:-1]][f[-1]] for f in files if f[-1] in listed[f[:-1]]])
        old = known.get(shard)
        if old is None or old.stat != stat:
            footers = [root.footer(*file) for file in files if file[-1] in listed[file[:-1]]]
            old = Part(shard, stat, fingerprint(layout, holds, footers))
        found[shard] = old
    return found


_Stats = dict[str, tuple[int, str, int]]


class _Listings(dict[tuple[str, ...], _Stats]):
    """The files in each folder with their `stat`, listed once."""

    def __init__(self, root: Root) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, folder: tuple[str, ...]) -> _Stats:
        self[folder] = self.root.stats(*folder, suffix=".parquet")
        return self[folder]


def _listings(root: Root, sidecars: Sequence[Sidecars]) -> _Listings:
    found = _Listings(root)
    for side in sidecars:
        if side.made_with is None:
            for source in root.names("shards"):
                found[side.stage.folder, "", source] = {}
    for source in root.names("shards"):
        found["retries", source] = {n.removesuffix(".parquet"): stat for n, stat in found["retries", source].items()}
    return found


def _inherited(root: Root, sidecars: Sequence[Sidecars], listed: _Listings) -> dict[str, tuple[str, str]]:
    """By source with retries, `stat` and `mark` of what retried rows may take from other shards: scores that the dump
    itself declares."""
    sides = [side for side in sidecars if side.stage.of_uid and side.made_with in _DECLARED]
    found = {}
    for source in root.names("shards"):
        folders = [(side.stage.folder, side.made_with or "", source) for side in sides]
        files = [(*folder, name) for folder in folders for name in sorted(listed[folder])]
        if files and listed["retries", source]:
            stats, footers = [listed[f[:-1]][f[-1]] for f in files], [root.footer(*f) for f in files]
            found[source] = fingerprint(stats), fingerprint(footers)
    return found
