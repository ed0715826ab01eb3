"""The stages whose sidecars the catalog joins to the samples: where they lie, and which columns they give.

The one list of them: the catalog, its comments, `explain` and `index` know no stage by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filters.errors import ConfigError, InputError
from pipelines.store.fingerprint import KEY
from pipelines.store.models import score_columns
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SHARD, SIGNALS, VERDICTS, Column, eval_column, features, verdicts

_SCORE = features(1).columns[1]


@dataclass(frozen=True, slots=True)
class Stage:
    """A job that writes sidecars, their folder, and the columns that `samples` has of it in any case.

    `of_uid` says that a sidecar's row is true of every attempt of its uid, and not only of the shard that it was made
    from: scores that ingest took from a dump stand under the shard of the first attempt. `last` is a file that a run
    writes when all sidecars are its own: without it they are of two runs, and what one calls a survivor the other
    may call a duplicate.
    """

    job: str
    folder: str
    columns: tuple[Column, ...]
    of_uid: bool = False
    last: str | None = None


SCORE = Stage("score", "features", (_SCORE,), of_uid=True)
DEDUPE = Stage("dedupe", "verdicts", VERDICTS.columns[1:], last="dedupe.json")
STAGES = (SCORE, DEDUPE, Stage("signals", "signals", SIGNALS.columns[1:]))


@dataclass(frozen=True, slots=True)
class Sidecars:
    """What one run of a stage left, by its fingerprint; nothing where that is None.

    `columns` are those that the files have in any case: (name in the files, column of `samples`).
    """

    stage: Stage
    made_with: str | None
    columns: tuple[tuple[str, Column], ...]

    def shards(self, root: Root) -> list[ShardId]:
        """The shards that it has a sidecar for."""
        return root.shards(self.stage.folder, self.made_with) if self.made_with else []

    def paths(self, root: Root) -> list[str]:
        """The files' addresses, in order of source and number."""
        made_with = self.made_with or ""
        return [
            root.address(self.stage.folder, made_with, s.source, f"{s.number}.parquet") for s in self.shards(root)
        ]

    def marks(self, root: Root) -> list[tuple[str, ...]]:
        """What tells whether anything in it has changed: each file with its fingerprint, and the columns."""
        folder, shards = (self.stage.folder, self.made_with or ""), self.shards(root)
        found = root.parquet_metadatas([(*folder, s.source, f"{s.number}.parquet") for s in shards])
        files = [(*folder, str(s), metadata.get(KEY, "")) for s, metadata in zip(shards, found, strict=True)]
        return [*files, (*folder, *(column.name for _, column in self.columns))]

    def columns_in(self, names: Sequence[str]) -> tuple[tuple[str, Column], ...]:
        """The columns of files that have these `names`: each evaluation set has one of its own."""
        prefix = eval_column("")
        sets = sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return (*self.columns, *((c.name, c) for c in verdicts(sets).columns[len(VERDICTS.columns) :]))


def choose(root: Root, wanted: Mapping[str, str | None]) -> list[Sidecars]:
    """The sidecars to join to the samples, in the order of STAGES; ConfigError if it is not clear which.

    InputError for those of a run that has not come to its end and whose sidecars belong together.
    `wanted` names a fingerprint by folder; without it the only one is taken. Of scores all models' are joined, each
    in its own column, and the chosen one's as `clip_score` too.
    """
    chosen = []
    by_model = score_columns(root)
    for stage in STAGES:
        made_with = only(root, stage.folder, wanted.get(stage.folder))
        if made_with and stage.last and not root.exists(stage.folder, made_with, stage.last):
            raise InputError(
                f"{root.path(stage.folder, made_with)}: a run of `headwater {stage.job}` has not come to its end; "
                "run it again with the same settings, or delete the folder"
            )
        columns = tuple((column.name, column) for column in stage.columns)
        models = {name: _score_of(name, column) for name, column in by_model.items()} if stage is SCORE else {}
        own = (models.pop(made_with),) if made_with in models else ()
        chosen.append(Sidecars(stage, made_with, (*columns, *own)))
        chosen += [Sidecars(stage, name, (column,)) for name, column in models.items()]
    return chosen


def stage_of(column: str) -> Stage | None:
    """The stage that a column of `samples` comes from, None for one of the shards' own."""
    if column in SHARD.names:
        return None
    if column.startswith(eval_column("")):
        return DEDUPE
    return next((stage for stage in STAGES if column in [c.name for c in stage.columns]), SCORE)


def _score_of(model: str, name: str) -> tuple[str, Column]:
    return _SCORE.name, Column(name, _SCORE.type, f"{_SCORE.meaning}, by the model of {SCORE.folder}/{model}")


def only(root: Root, folder: str, wanted: str | None) -> str | None:
    """The fingerprint of a stage's folder to use: the one wanted, the only one, or none; ConfigError if unclear.

    One without a sidecar, as a run that failed at once leaves it, does not count.
    """
    found = [name for name in root.names(folder) if root.shards(folder, name)]
    if wanted is not None and wanted not in found:
        raise ConfigError(
            f"{folder}: {wanted!r} is not under {root.url}/{folder}; there is {', '.join(found) or 'none'}"
        )
    if wanted is None and len(found) > 1:
        raise ConfigError(
            f"{folder}: several fingerprints ({', '.join(found)}); choose one, such as --{folder} {found[0]}"
        )
    return wanted or (found[0] if found else None)
