"""What must hold before a study starts: no evaluation picture is in what it may train on, as far as is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import duckdb

from evaluation.tasks import Task
from filters.errors import InputError
from pipelines.draw import survey
from pipelines.rules import find_rules
from pipelines.store.presets import literal, quoted
from pipelines.store.root import Root
from pipelines.store.schema import eval_column
from pipelines.study_config import StudyConfig
from pipelines.study_matrix import mixture

_KINDS = ("exact_bytes", "exact_pixels", "near", "semantic")


def check_sources(
    con: duckdb.DuckDBPyConnection, root: Root, config: StudyConfig, tasks: Sequence[Task]
) -> dict[str, dict[str, int]]:
    """Counts by evaluation set: its pictures, what was kept out of training by kind of match, and what is `left`.

    A match is of the picture's bytes (SHA-256, looked for here once more) or one that `headwater dedupe` verified.
    InputError where a set was never compared with the sources, where pictures came after the comparison, and where
    anything of a set is left in what the study may train on.
    """
    columns = {str(row[0]) for row in con.execute("DESCRIBE samples").fetchall()}
    again = f"run `headwater dedupe --root {root.url} --tasks {config.tasks}`, then `headwater index`"
    if unknown := [task.name for task in tasks if eval_column(task.name) not in columns]:
        raise InputError(f"study: the sources were never compared with {', '.join(unknown)}; {again}")
    if late := _without_verdict(root):
        raise InputError(f"study: {late} shards came after the last `headwater dedupe`; {again}")
    rules = find_rules(con, mixture("guard", config, dict.fromkeys(config.sources, 1), 0, None))
    allowed = f"{rules.scope} AND {' AND '.join(rules.conditions.values())}"
    found = {task.name: _counts(con, config, task, allowed) for task in tasks}
    left = {name: counts["left"] for name, counts in found.items() if counts["left"]}
    if left:
        named = ", ".join(f"{count} of {name}" for name, count in left.items())
        raise InputError(f"study: evaluation pictures are in the training data ({named}); {again}")
    if not sum(part.there for part in survey(con, rules).parts):
        raise InputError("study: nothing is left to train on; see `headwater mix --dry-run`")
    return found


def guard_text(found: dict[str, dict[str, int]]) -> str:
    """The counts for a line of progress."""
    parts = []
    for name, counts in found.items():
        kinds = ", ".join(f"{counts[kind]} {kind}" for kind in _KINDS if counts[kind]) or "no match"
        parts.append(f"{name} ({counts['pictures']} pictures): {kinds} kept out, {counts['left']} left")
    return "; ".join(parts)


def task_digest(tasks: Sequence[Task]) -> str:
    """SHA-256 over what the sets ask: pictures, labels, names, templates."""
    digest = hashlib.sha256()
    for task in tasks:
        for text in (task.name, *task.classnames, *task.templates, *map(str, task.labels.tolist())):
            digest.update(f"{text}\x1f".encode())
        for data in task.images:
            digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _counts(con: duckdb.DuckDBPyConnection, config: StudyConfig, task: Task, allowed: str) -> dict[str, int]:
    column = quoted(eval_column(task.name))
    sources = ", ".join(literal(source) for source in config.sources)
    scope = f"status = 'success' AND source IN ({sources})"
    rows = con.execute(f"SELECT {column}, count(*) FROM samples WHERE {scope} GROUP BY ALL").fetchall()
    kinds = {str(kind): int(count) for kind, count in rows if kind is not None}
    hashes = sorted({hashlib.sha256(data).hexdigest() for data in task.images})
    same = "sha256 IN (SELECT unnest(?::VARCHAR[]))"
    query = f"SELECT count(*) FROM samples WHERE {allowed} AND ({same} OR {column} IS NOT NULL)"
    [(left,)] = con.execute(query, [hashes]).fetchall()
    counts = {kind: kinds.get(kind, 0) for kind in _KINDS}
    return {"pictures": len(task.images), **counts, "left": int(left)}


def _without_verdict(root: Root) -> int:
    """Shards that no dedupe run has looked at."""
    judged = {str(shard) for name in root.names("verdicts") for shard in root.shards("verdicts", name)}
    return sum(str(shard) not in judged for shard in root.shards("shards"))
