"""Proof that a published mixture follows from the catalog and its YAML.

headwater mix --root data --verify even [--config configs/mixes/even.yaml]

Three steps: the files are what the lock file says; a mixture drawn once more from the lock's own configuration has
the same digest; and, at equal versions of the libraries, the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from filters.errors import HeadwaterError, InputError, SchemaError, ShardError
from pipelines import lock as locks
from pipelines import manifest
from pipelines.config import load_config
from pipelines.draw import build_mix, draw, survey
from pipelines.job import say, told
from pipelines.mixture import MixConfig
from pipelines.rules import find_rules
from pipelines.store import catalog, removals
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root
from pipelines.store.store_errors import answering

_LOCKED = ("config", "digest", "samples", "sources", "catalog", "versions")


def verify(root: Root, name: str, config: str | None = None) -> dict[str, Any]:
    """What each step found, as one JSON-ready mapping; `problems` is empty where the mixture is proved.

    `config` is a YAML whose mixture must be the lock's. Raises InputError where there is no such mixture.
    """
    lock, mix = _read_lock(root, name)
    found: dict[str, Any] = {"mixture": name, "samples": lock["samples"], "digest": lock["digest"]}
    problems = [] if config is None else _against_yaml(root, lock, config)
    problems += _files(root, name, lock)
    if gone := removals.count_in(root, name, removals.uids(root)):
        problems.insert(0, f"{gone} of its uids were removed by `headwater remove`; draw it again")
    found["files"] = not problems
    with catalog.connect(root) as con:
        found["same_catalog"] = catalog.snapshot(con) == lock["catalog"]
        drawn, sha256, reason = _redraw(con, root, mix)
        found["redrawn"] = drawn == lock["digest"]
        found["bytes"] = _bytes(lock, sha256) if found["redrawn"] else None
        if reason:
            problems.append(f"it cannot be drawn from this catalog: {reason}")
        elif not found["redrawn"]:
            problems.append(_difference(con, root, mix, found))
    if found["bytes"] is False:
        problems.append("the same rows give other bytes at equal versions; the manifest was written by other means")
    return {**found, "problems": problems, "verified": not problems}


def _read_lock(root: Root, name: str) -> tuple[dict[str, Any], MixConfig]:
    if not root.exists("mixes", name, locks.FILE) or not root.exists("mixes", name, manifest.FILE):
        there = ", ".join(catalog.mixture_names(root)) or "none"
        raise InputError(f"{root.path('mixes', name)}: no mixture; there is {there}")
    lock = root.read_json("mixes", name, locks.FILE)
    path = root.path("mixes", name, locks.FILE)
    try:
        if not isinstance(lock, dict) or any(key not in lock for key in _LOCKED):
            raise InputError(f"{path}: is not a lock file of this version; run `headwater mix` again")
        return lock, MixConfig.model_validate(lock["config"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: config.{field}: {first['msg']}; run `headwater mix` again") from error


def _against_yaml(root: Root, lock: Mapping[str, Any], path: str) -> list[str]:
    """What the lock's configuration and a YAML do not share."""
    given = load_config(MixConfig, path, []).model_dump(mode="json")
    other = [key for key in given if given[key] != lock["config"].get(key)]
    return [f"{path} differs from the lock in {', '.join(other)}"] if other else []


def _files(root: Root, name: str, lock: Mapping[str, Any]) -> list[str]:
    """Where manifest and uid list are not what the lock says."""
    problems = []
    try:
        content = manifest.content(root.read_groups("mixes", name, manifest.FILE))
    except (ShardError, SchemaError, KeyError) as error:
        return [f"{manifest.FILE} cannot be read ({error})"]
    if content.digest != lock["digest"]:
        problems.append(f"{manifest.FILE} has the digest {content.digest[:16]}…, the lock {lock['digest'][:16]}…")
    got = {source["source"]: source["got"] for source in lock["sources"] if source["got"]}
    if content.counts != got or sum(got.values()) != lock["samples"]:
        problems.append(f"{manifest.FILE} has {content.counts} rows by source, the lock says {got}")
    try:
        with root.reading("mixes", name, manifest.UIDS) as file:
            same = np.array_equal(np.load(file), content.pairs)
    except (OSError, ValueError, EOFError) as error:
        return [*problems, f"{manifest.UIDS} cannot be read ({error})"]
    return problems if same else [*problems, f"{manifest.UIDS} does not hold the manifest's uids, sorted"]


def _redraw(con: duckdb.DuckDBPyConnection, root: Root, mix: MixConfig) -> tuple[str, str, str]:
    """Digest and SHA-256 of the mixture drawn once more; in their place the reason where it cannot be."""
    mark = root.parquet_metadata("mixes", mix.name, manifest.FILE).get(KEY, "")
    try:
        content, sha256 = manifest.write(draw(con, survey(con, find_rules(con, mix))), None, {KEY: mark})
    except HeadwaterError as error:
        return "", "", str(error)
    return content.digest, sha256, ""


def _bytes(lock: Mapping[str, Any], sha256: str) -> bool | str:
    """Whether the bytes are the same, or why that cannot be asked."""
    if "manifest_sha256" not in lock:
        return "not compared: the lock has no manifest_sha256"
    ours = locks.versions()
    other = [f"{name} {lock['versions'].get(name)} then, {ours[name]} now" for name in ours]
    other = [text for text, name in zip(other, ours, strict=True) if lock["versions"].get(name) != ours[name]]
    return f"not compared: {', '.join(other)}" if other else bool(sha256 == lock["manifest_sha256"])


def _difference(con: duckdb.DuckDBPyConnection, root: Root, mix: MixConfig, found: dict[str, Any]) -> str:
    """How the drawn mixture differs from the published one, in one line; the numbers go to `found` too."""
    try:
        published = pa.concat_tables(root.read_groups("mixes", mix.name, manifest.FILE))
    except (ShardError, pa.ArrowInvalid):
        return "a mixture drawn once more has another digest than the lock"
    keys = ["uid", "repeat"]
    drawn = build_mix(con, mix).select(keys)
    published = published.select(keys)
    found["entered"] = drawn.join(published, keys, join_type="left anti").num_rows
    found["left"] = published.join(drawn, keys, join_type="left anti").num_rows
    since = "the catalog is the same" if found["same_catalog"] else "the catalog has changed since"
    what = f"{found['entered']} entered, {found['left']} left"
    if not found["entered"] and not found["left"]:
        what = "the same samples with other captions"
    return f"drawn once more it differs: {what}; {since}"


def main(argv: Sequence[str]) -> int:
    """Entry point of `headwater mix --verify`: one JSON line; exit code 0 proved, 1 not, 2 nothing to prove."""
    parser = argparse.ArgumentParser(prog="headwater mix --verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="data root (default 'data')")
    parser.add_argument("--verify", metavar="NAME", required=True, help="name of the mixture")
    parser.add_argument("--config", metavar="FILE", help="YAML that the mixture must have been made from")
    arguments = parser.parse_args(argv)

    def work() -> int:
        with answering(arguments.root):
            found = verify(Root(arguments.root), arguments.verify, arguments.config)
        if found["problems"]:
            say(f"headwater mix: {arguments.verify} is not proved: {'; '.join(found['problems'])}")
        else:
            say(
                f"mix: {arguments.verify} is proved: {found['samples']} samples follow from catalog and configuration"
            )
        print(json.dumps({"job": "verify", **found}, sort_keys=True), flush=True)
        return 0 if found["verified"] else 1

    return told("mix", work)
