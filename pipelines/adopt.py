"""Tars that are there already to shards: the output of img2dataset, DataComp's resharder or webdataset.

headwater adopt tars/cc12m --root data --source cc12m

No tar is copied or changed: the root gets a link to each. A tar is read once, into a staged sidecar; when all have
been read, samples that stand in two of them are found, and the shards are published.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import duckdb
from pydantic import Field

from filters.errors import ConfigError, InputError
from pipelines.adopted.publish import Ready, is_published, publish
from pipelines.adopted.stage import DAMAGE, FOLDER, Stager, Tar
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, job_main, say
from pipelines.slices import retry_slices
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root, ShardId
from pipelines.store.shards import leftovers

_DIGITS = 5
_PACKED = (".gz", ".bz2", ".xz", ".zst")


class AdoptConfig(JobConfig):
    """Which tars to take in, and under which name."""

    tars: str = Field(description="folder with the tars, or a glob of them; may be given without its flag")
    source: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the source that they become")
    max_pixels: int = Field(50_000_000, ge=1, description="largest picture that is decoded")
    cpus: float = Field(1.0, gt=0, description="CPUs a tar: its pictures are decoded to hash their pixels")


def run(config: AdoptConfig) -> dict[str, Any]:
    """Build sidecars over tars that are there already; shards of tars that have not changed are left alone."""
    root, account = Root(config.root), Account("adopt")
    tars = _tars(root, config)
    staged = _stage(root, tars, config, account)
    ready = [Ready(tar, repeats) for tar, repeats in _repeats(root, list(staged)).items()]
    todo = [item for item in ready if not is_published(root, item, staged[item.tar])]
    account.shards_skipped = len(ready) - len(todo)
    say(f"adopt: {len(todo)} shards to publish, {account.shards_skipped} done before")
    pictures: Counter[str] = Counter()
    for item, result in map_shards(todo, partial(_publisher, root, config), cpus=config.cpus, local=config.local):
        record(account, item, result, len(todo))
        pictures.update(result.get("pictures", {}))
    damage = {str(tar): lines for tar in staged if (lines := _damage(root, tar))}
    for name, lines in damage.items():
        say(f"adopt: {name}: {lines[0]}{f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''}")
    account.extra = {"source": config.source, "damage": damage}
    if account.rows_in:
        say(f"adopt: {config.source}: {account.rows_in} rows: {account.text()}")
    account.check(config.max_failed_fraction)
    account.check_rows(config.max_failed_fraction, pictures)
    return account.summary()


def _publisher(root: Root, config: AdoptConfig) -> Work:
    return partial(publish, root, config.max_pixels)


def plan(config: AdoptConfig) -> dict[str, Any]:
    """Which tar would become which shard."""
    tars = _tars(Root(config.root), config)
    return {"source": config.source, "shards": {tar.shard.number: tar.name for tar in tars}}


def _tars(root: Root, config: AdoptConfig) -> list[Tar]:
    """The user's tars in order of name, each with its shard; InputError where they cannot be taken in."""
    names, base = _find(config.tars)
    shards = root.local("shards").resolve()
    if base.is_relative_to(shards):
        raise InputError(
            f"{config.tars}: lies in the root's shards, which adopt writes; move the folder out of {shards}"
        )
    tars = [
        Tar(ShardId(config.source, number), str(base / name), name)
        for number, name in zip(_numbers(names), names, strict=True)
    ]
    _check_place(root, config.source, [tar.shard for tar in tars])
    return tars


def _find(place: str) -> tuple[list[str], Path]:
    """Names of the tars in a folder and below, or of a glob, sorted, and the folder that they are relative to."""
    if "://" in place:
        raise ConfigError(
            f"tars {place}: only local tars can be adopted, since the root links to them; mount or copy them"
        )
    path = Path.cwd() / Path(place).expanduser()
    is_folder = path.is_dir()
    found = path.rglob("*.tar*") if is_folder else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    files = sorted(file for file in found if not file.name.startswith(".") and not file.is_dir())
    tars = [file for file in files if file.suffix == ".tar"]
    packed = [file.name for file in files if file.suffix in _PACKED]
    if not tars:
        raise InputError(f"{place}: {_why_none(path, is_folder, packed, files)}")
    if packed:
        say(f"adopt: {len(packed)} compressed tars are left out, from {packed[0]}; decompress them first")
    base = path if is_folder else Path(os.path.commonpath([file.parent for file in tars]))
    return [file.relative_to(base).as_posix() for file in tars], base.resolve()


def _why_none(path: Path, is_folder: bool, packed: Sequence[str], files: Sequence[Path]) -> str:
    """What is wrong with a place that leads to no tar, and what to do."""
    if packed:
        return f"no tars here; {packed[0]} is compressed: decompress it first"
    if is_folder:
        return "no tars in this folder or below; name the one that holds files *.tar"
    if files:
        return f"{files[0].name} is no tar; name files *.tar, or the folder that holds them"
    if glob.has_magic(str(path)):
        return "no file has a name like this; check it, and keep it in quotes on a command line"
    return "no such folder or file; check the path"


def _numbers(names: Sequence[str]) -> list[str]:
    """A shard number for each tar: the digits that its name ends in, if they tell all apart, else its place."""
    ends = [PurePath(name).stem for name in names]
    digits = [end[len(end.rstrip("0123456789")) :] for end in ends]
    lengths = {len(number) for number in digits}
    if len(set(digits)) == len(names) and len(lengths) == 1 and lengths <= set(range(1, 13)):
        return digits
    width = max(_DIGITS, len(str(len(names) - 1)))
    return [f"{place:0{width}d}" for place in range(len(names))]


def _check_place(root: Root, source: str, shards: Sequence[ShardId]) -> None:
    """InputError where the source has shards that come from elsewhere; those of its retries are its own."""
    if root.names("metadata", source):
        raise InputError(
            f"{root.url}/metadata/{source}: was ingested; choose another --source for tars that are there"
        )
    own = {piece.shard.number for piece in retry_slices(root, source)}
    taken = sorted(own & {shard.number for shard in shards})
    if taken:
        raise InputError(
            f"{root.url}/shards/{source}: number {taken[0]} is that of a retry, and a tar would get it; leave out "
            "the tars that came later (--tars takes a glob), and adopt them as another --source"
        )
    links = [root.local("shards", source, f"{shard.number}.tar") for shard in shards]
    other = leftovers(root, source, {shard.number for shard in shards} | own)
    other += [place.stem for place in links if place.exists() and not place.is_symlink()]
    if other:
        raise InputError(
            f"{root.url}/shards/{source}: holds {len(other)} shards, from {other[0]}, that are not of these tars; "
            "choose another --source, or move them away"
        )


def _stage(root: Root, tars: Sequence[Tar], config: AdoptConfig, account: Account) -> dict[Tar, str]:
    """Stage what is not staged yet; the tars that are staged now, each with its sidecar's mark."""
    marks = {tar: tar.mark(config.max_pixels) for tar in tars}
    todo = [tar for tar in tars if _metadata(root, tar).get(KEY) != marks[tar]]
    say(f"adopt: {len(todo)} tars to read, {len(tars) - len(todo)} read before")
    done = 0
    for tar, result in map_shards(
        todo, partial(Stager, root, config.max_pixels), cpus=config.cpus, local=config.local
    ):
        if "error" in result:
            record(account, tar, result, len(todo))
            # What was published of the tar as it was before does not fit it any more.
            root.remove("shards", tar.shard.source, f"{tar.shard.number}.parquet")
            del marks[tar]
        else:
            done += 1
            say(f"adopt: read {done}/{len(todo)} {tar}: {result['rows']} rows")
    return marks


def _repeats(root: Root, tars: Sequence[Tar]) -> dict[Tar, tuple[int, ...]]:
    """For each staged tar, the places of rows whose uid an earlier row has; a picture counts before a failure."""
    found: dict[str, list[int]] = {tar.shard.number: [] for tar in tars}
    paths = [root.path(FOLDER, tar.shard.source, f"{tar.shard.number}.parquet") for tar in tars]
    if paths:
        with tempfile.TemporaryDirectory() as spill, duckdb.connect(config={"temp_directory": spill}) as con:
            query = """
                WITH twice AS (SELECT uid_lo FROM read_parquet($paths) GROUP BY uid_lo HAVING count(*) > 1)
                SELECT shard, line FROM read_parquet($paths) SEMI JOIN twice USING (uid_lo)
                QUALIFY row_number() OVER (PARTITION BY uid ORDER BY status = 'success' DESC, shard, line) > 1
                ORDER BY shard, line"""
            for shard, line in con.execute(query, {"paths": paths}).fetchall():
                found[shard].append(line)
    return {tar: tuple(found[tar.shard.number]) for tar in tars}


def _metadata(root: Root, tar: Tar) -> dict[str, str]:
    return root.parquet_metadata(FOLDER, tar.shard.source, f"{tar.shard.number}.parquet")


def _damage(root: Root, tar: Tar) -> list[str]:
    return [str(line) for line in json.loads(_metadata(root, tar).get(DAMAGE, "[]"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater adopt`."""
    return job_main("adopt", AdoptConfig, run, plan, argv, bare="tars")


if __name__ == "__main__":
    sys.exit(main())
