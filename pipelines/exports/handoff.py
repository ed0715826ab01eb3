"""What other trainers want to know of an export's tars: sizes, counts, ids, and how to call them."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from filters.errors import InputError
from pipelines.exports.plan import Contents, Export, Piece, tar_prefix
from pipelines.exports.write import publish
from pipelines.store.root import Root

# Beside the folder of tars and not in it: DataComp's train.py takes the numbers of the tars of a folder with a
# `meta.json` from there, as a brace range, and that can be of numbers only. Without one it goes by the files.
_META = "tars.meta.json"
_RESAMPLED = (
    "each sample is there once; the factors are each source's share of the mixture over its samples, and open_clip "
    "takes them with --dataset-resampled only (tars are then drawn with replacement, and shares are met on average)"
)
_ONCE = "each row of the mixture is there once, in its order; without --dataset-resampled an epoch sees each once"

Results = Mapping[Piece, Mapping[str, Any]]


def finals(export: Export) -> list[tuple[str, ...]]:
    """The files that `hand_over` writes, from the root; what lacks them is not complete."""
    names = ["sizes.json", "open_clip.json"] + ["sample_ids.npy"] * (export.layout == "mixed")
    beside = [("mixes", export.mixture, _META)] * (export.layout == "mixed")
    return [*((*export.folder, name) for name in names), *beside]


def check_names(root: Root, export: Export, sources: Iterable[str]) -> None:
    """InputError where an export's tars would have names that open_clip takes for something else."""
    for name in (root.address(*export.folder), *sources):
        if unfit := [sign for sign in ("{", "}", "::", "$", "\\") if sign in name]:
            raise InputError(f"{name}: open_clip cannot name files with {unfit[0]} in their path; use another one")


def hand_over(root: Root, export: Export, there: Contents, results: Results, per_file: int) -> dict[str, Any]:
    """Write what open_clip and DataComp read about the tars; returns the content of open_clip.json."""
    sizes = {piece.path[-1]: sum(result["there"].values()) for piece, result in results.items()}
    call = open_clip_call(root, export, there, results)
    if export.layout == "mixed":
        _sample_ids(root, export)
        root.write_json(_meta(root, export, there, sizes, per_file), "mixes", export.mixture, _META)
    publish(root, export, json.dumps(call, indent=2), "open_clip.json")
    publish(root, export, json.dumps(sizes, indent=2, sort_keys=True), "sizes.json")
    return call


def open_clip_call(root: Root, export: Export, there: Contents, results: Results) -> dict[str, Any]:
    """The arguments of open_clip that train on an export as the mixture says, and the command."""
    if export.layout == "mixed":
        data = _tars(root, export, None, len(results))
        samples = sum(sum(result["there"].values()) for result in results.values())
        call: dict[str, Any] = {"train_data": data, "train_num_samples": samples, "dataset_resampled": False}
        return {**call, "note": _ONCE, "command": _command(call)}
    sources = [_source(root, export, there, results, name) for name in sorted(there.firsts)]
    usable = [source for source in sources if source["samples"]]
    call = {
        "train_data": "::".join(source["train_data"] for source in usable),
        "train_data_upsampling_factors": "::".join(repr(source["factor"]) for source in usable),
        "train_num_samples": there.uses.total(),
        "dataset_resampled": True,
    }
    return {**call, "sources": sources, "note": _RESAMPLED, "command": _command(call)}


def _source(root: Root, export: Export, there: Contents, results: Results, name: str) -> dict[str, Any]:
    """One source's tars, samples, share of the mixture and factor; none of the last where nothing could be read."""
    mine = [result for piece, result in results.items() if piece.source == name]
    samples = sum(result["there"].get(name, 0) for result in mine)
    share = there.uses[name] / there.uses.total()
    return {
        "source": name,
        "train_data": _tars(root, export, name, len(mine)),
        "tars": len(mine),
        "samples": samples,
        "share": share,
        "factor": share / samples if samples else None,
    }


def _tars(root: Root, export: Export, source: str | None, count: int) -> str:
    """All tars of a source, or of the mixture, as one brace string."""
    prefix = root.address(*export.folder, tar_prefix(export.mixture, source))
    return f"{prefix}{{{0:08d}..{count - 1:08d}}}.tar"


def _command(call: Mapping[str, Any]) -> str:
    arguments = ["python", "-m", "open_clip_train.main", "--dataset-type", "webdataset"]
    arguments += ["--dataset-resampled"] if call["dataset_resampled"] else []
    for name in ("train_data", "train_data_upsampling_factors", "train_num_samples"):
        if name in call:
            arguments += [f"--{name.replace('_', '-')}", str(call[name])]
    return shlex.join(arguments)


def _sample_ids(root: Root, export: Export) -> None:
    """DataComp's resharder leaves a copy of the list of uids that it was asked for; repeats stand in it as often."""
    with (
        root.reading("mixes", export.mixture, "uids.npy") as uids,
        root.writing(*export.folder, "sample_ids.npy", scratch=export.scratch) as copy,
    ):
        shutil.copyfileobj(uids, copy, 1 << 20)


def _meta(root: Root, export: Export, there: Contents, sizes: Mapping[str, int], per_file: int) -> dict[str, Any]:
    """The keys of DataComp's `meta.json` that have a meaning here: arguments as texts, counts as numbers."""
    return {
        "input_dir": root.address("shards"),
        "output_dir": root.address(*export.folder),
        "subset_file": root.address("mixes", export.mixture, "uids.npy"),
        "shard_size": str(per_file),
        "output_shard_format": f"{tar_prefix(export.mixture, None)}{{:08d}}.tar",
        "output_shard_stats_format": f"{tar_prefix(export.mixture, None)}{{:08d}}_stats.json",
        "apply_blur": "False",
        "processed_count": there.uses.total(),
        "output_count": sum(sizes.values()),
        "output_shard_count": len(sizes),
        "blur_count": 0,
        "blur_time": 0,
    }


def lost_shards(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By shard how many rows could not be read, and why; the shards in order."""
    lost: dict[str, dict[str, Any]] = {}
    for result in results:
        for shard, found in result["lost"].items():
            known = lost.setdefault(shard, {"rows": 0, "why": found["why"]})
            known["rows"] += found["rows"]
    return dict(sorted(lost.items()))
