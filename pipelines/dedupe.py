"""Shards to verdict sidecars: which pictures are the same, and which ones an evaluation set holds.

headwater dedupe --root data --tasks eval
headwater dedupe --root data --tasks eval --features FINGERPRINT --semantic-distance 0.05
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from filters.duplicates import Decisions, NearParams, Pictures, SemanticParams, decide
from filters.errors import ConfigError, InputError
from filters.near_pairs import pixel_probes
from pipelines.config import JobConfig
from pipelines.dedupes.damage import check_damage, damage_text, unreadable
from pipelines.dedupes.facts import Facts, load_facts
from pipelines.dedupes.held_out import load_evaluation, set_columns, set_marks
from pipelines.dedupes.looks import VERSION, forget, make_looks
from pipelines.dedupes.modes import mixed_modes
from pipelines.dedupes.pairs import DamagedError, Verifier
from pipelines.dedupes.publish import Counts, count_kinds, count_overlaps, write_verdicts
from pipelines.job import Account, job_main, say
from pipelines.store import removals
from pipelines.store.fingerprint import KEY, fingerprint
from pipelines.store.root import Root, ShardId
from pipelines.store.schema import SCHEMA_VERSION

_STATE = "dedupe.json"


class DedupeConfig(JobConfig):
    """What counts as a duplicate, who survives, and which evaluation sets must stay unseen."""

    tasks: str | None = Field(
        None,
        description="folder of evaluation sets under the root; none if not given",
    )
    priority: list[str] = Field([], description="sources whose sample survives first; those not named tie after them")
    hamming_radius: int = Field(NearParams().hamming_radius, ge=0, le=64, description="bits of phash for candidates")
    tangent_radius: float = Field(
        NearParams().tangent_radius,
        ge=0,
        description="coarse distance for candidates, by their curvature; 0: not searched",
    )
    tangent_probes: int | None = Field(
        NearParams().tangent_probes, ge=1, description="clusters of pixels a picture visits in a crowd; null: all"
    )
    max_distance: float = Field(
        NearParams().max_distance, ge=0, le=1, description="verified distance of near duplicates"
    )
    placeholder_urls: int = Field(
        50, ge=1, description="different URLs that may give the same bytes before these count as an error page"
    )
    features: str | None = Field(
        None, description="fingerprint of the scores and embeddings to use; none if not given"
    )
    semantic_distance: float | None = Field(
        None, ge=0, lt=1, description="1 - cosine of the embeddings of semantic duplicates; null: not searched"
    )
    eval_semantic_distance: float | None = Field(
        None, ge=0, lt=1, description="1 - cosine to an evaluation picture; null: that of semantic duplicates, if any"
    )
    clusters: int | None = Field(None, ge=1, description="clusters of embeddings; null: by their number")
    probes: int | None = Field(None, ge=1, description="clusters each embedding visits; null: as a sample needs")
    caption_similarity: float | None = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of captions that are nearly the same; null: not searched"
    )
    seed: int = Field(0, ge=0, description="seed of the clusters")
    threads: int = Field(2, ge=1, description="threads that decode evaluation pictures")
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")


def run(config: DedupeConfig) -> dict[str, Any]:
    """Give every downloaded picture its verdict; nothing is deleted."""
    root, account = Root(config.root), Account("dedupe")
    shards = root.shards("shards")
    _check_shards(root, shards, config)
    _check_features(root, config)
    sets = set_columns(root, config.tasks)
    marks = set_marks(root, config.tasks, list(sets)) if config.tasks else {}
    name, mark = _name(config), _mark(root, shards, marks, config)
    state = root.read_json("verdicts", name, _STATE) if root.exists("verdicts", name, _STATE) else {}
    # Damaged pictures may have been mended: nothing but a look at them tells.
    done = state.get("mark") == mark and not state["summary"]["unreadable"]
    if done and all(root.parquet_metadatas([_file(name, s) for s in shards])):
        account.shards_skipped = len(shards)
        account.extra = {"verdicts": name, **state["summary"]}
        say("dedupe: verdicts are up to date")
        return account.summary()
    facts, evaluation, unembedded, found = _compared(root, shards, config, marks)
    # Until all files are of this run, none of the earlier ones says that they are.
    root.remove("verdicts", name, _STATE)
    written = write_verdicts(root, name, shards, facts, found, sets)
    by_source, overlaps = count_kinds(facts, found), count_overlaps(facts, found, list(sets))
    summary = {
        "by_source": by_source, "eval_overlaps": overlaps, "eval_sets_without_embeddings": unembedded,
        "searches": _searches(config, facts, evaluation, found), "unreadable": unreadable(facts),
    }  # fmt: skip
    root.write_json({"mark": mark, "summary": summary}, "verdicts", name, _STATE)
    account.shards_done, account.shards_skipped = written, len(shards) - written
    account.add(facts.table.num_rows, _total(by_source))
    account.extra = {"verdicts": name, **summary}
    account.check(config.max_failed_fraction)
    _print(account, by_source, overlaps)
    check_damage(facts, config.max_failed_fraction, account.summary())
    return account.summary()


def plan(config: DedupeConfig) -> dict[str, Any]:
    """What a dedupe run would read."""
    root = Root(config.root)
    _check_features(root, config)
    return {"shards": len(root.shards("shards")), "tasks": list(set_columns(root, config.tasks))}


def _check_shards(root: Root, shards: Sequence[ShardId], config: DedupeConfig) -> None:
    if not shards:
        raise InputError(f"{config.root}/shards: nothing downloaded; run `headwater download` first")
    sources = sorted({shard.source for shard in shards})
    if unknown := [name for name in config.priority if name not in sources]:
        say(f"dedupe: priority: nothing is downloaded from {', '.join(unknown)}; there is {', '.join(sources)}")


def _check_features(root: Root, config: DedupeConfig) -> None:
    if config.eval_semantic_distance is not None and config.tasks is None:
        raise ConfigError("--eval-semantic-distance compares with evaluation sets; give --tasks FOLDER too")
    if config.features is None and _embeds(config):
        name = "--semantic-distance" if config.semantic_distance is not None else "--eval-semantic-distance"
        raise ConfigError(f"{name} compares embeddings; give --features FINGERPRINT too")
    there = root.names("features")
    if config.features is not None and config.features not in there:
        known = ", ".join(there) or "none"
        raise ConfigError(f"features: {config.features!r} is not under {config.root}/features; there is {known}")


def _compared(
    root: Root, shards: Sequence[ShardId], config: DedupeConfig, marks: dict[str, str]
) -> tuple[Facts, Pictures | None, list[str], Decisions]:
    """What is known of all pictures, the evaluation pictures, the sets without embeddings, and what is decided."""
    again = frozenset[ShardId]()
    while True:
        make_looks(root, shards, cpus=config.cpus, local=config.local)
        facts = load_facts(root, shards, config.features, embed=_embeds(config))
        say(f"dedupe: {facts.table.num_rows} pictures")
        for text in (damage_text(facts), mixed_modes(facts.table)):
            if text:
                say(f"dedupe: {text}")
        evaluation, unembedded = _evaluation(root, config, facts, marks)
        try:
            return facts, evaluation, unembedded, _decide(root, config, facts, evaluation)
        except DamagedError as error:
            # Damaged since they were looked at: what is decided must be what a fresh run decides.
            if error.shards <= again:
                raise
            again |= error.shards
            forget(root, error.shards)


def _embeds(config: DedupeConfig) -> bool:
    return config.semantic_distance is not None or config.eval_semantic_distance is not None


def _evaluation(
    root: Root, config: DedupeConfig, facts: Facts, marks: dict[str, str]
) -> tuple[Pictures | None, list[str]]:
    """The evaluation pictures, and the sets whose embeddings were asked for and are missing."""
    if not marks:
        return None, []
    embedded = (config.features or "", facts.vectors.shape[1]) if facts.vectors is not None else None
    return load_evaluation(root, config.tasks or "", marks, embedded, config.threads)


def _semantic(config: DedupeConfig, distance: float | None) -> SemanticParams | None:
    return None if distance is None else SemanticParams(distance, config.clusters, config.probes, config.seed)


def _decide(root: Root, config: DedupeConfig, facts: Facts, evaluation: Pictures | None) -> Decisions:
    held_out = config.semantic_distance if config.eval_semantic_distance is None else config.eval_semantic_distance
    verifier = Verifier(root, cpus=config.cpus, local=config.local)
    found = decide(
        Pictures(facts.table, facts.looks.__getitem__, facts.vectors),
        priority=config.priority,
        evaluation=evaluation,
        params=_params(config),
        semantic=_semantic(config, config.semantic_distance),
        eval_semantic=_semantic(config, held_out),
        placeholder_urls=config.placeholder_urls,
        captions=None if config.caption_similarity is None else facts.captions,
        caption_similarity=config.caption_similarity or 1,
        verify=verifier,
    )
    say(f"dedupe: {verifier.verified:,} pairs compared, {verifier.known:,} known before")
    return found


def _searches(
    config: DedupeConfig, facts: Facts, evaluation: Pictures | None, found: Decisions
) -> dict[str, dict[str, float]]:
    """How completely pictures were searched, by the search, for the summary; each printed in one line."""
    size, params = facts.table.num_rows, _params(config)
    searches: dict[str, dict[str, float]] = {}
    for name, held in (("pixels", size), ("eval_pixels", 0 if evaluation is None else len(evaluation.table))):
        if (probes := pixel_probes(size, held, params)) is not None:
            searches[name] = {"probes": probes}
            say(f"dedupe: {name}: each picture of the crowd is compared with the {probes} nearest clusters only")
    for name, search in (("semantic", found.semantic), ("eval_semantic", found.hits.search)):
        if search is not None:
            searches[name] = {"clusters": search.clusters, "probes": search.probes, "recall": round(search.recall, 4)}
            say(
                f"dedupe: {name}: embeddings visit {search.probes} of {search.clusters:,} clusters, which finds "
                f"{search.recall:.2%} of a sample's pairs"
            )
    return searches


def _params(config: DedupeConfig) -> NearParams:
    return dataclasses.replace(
        NearParams(),
        hamming_radius=config.hamming_radius,
        tangent_radius=config.tangent_radius,
        tangent_probes=config.tangent_probes,
        max_distance=config.max_distance,
    )


def _name(config: DedupeConfig) -> str:
    """Fingerprint of the settings: the name of the verdicts' folder."""
    free = {"root", "local", "max_failed_fraction", "threads", "cpus"}
    return fingerprint(SCHEMA_VERSION, dataclasses.asdict(_params(config)), config.model_dump(exclude=free))


def _mark(root: Root, shards: Sequence[ShardId], sets: dict[str, str], config: DedupeConfig) -> str:
    """Fingerprint of the inputs: a verdict depends on every shard and on every evaluation set."""
    found = root.parquet_metadatas([("shards", s.source, f"{s.number}.parquet") for s in shards])
    made_from = [(str(s), marks.get(KEY)) for s, marks in zip(shards, found, strict=True)]
    if gone := removals.digest(root):
        made_from.append((removals.FOLDER, gone))  # shards keep their fingerprints
    features = []
    if config.features is not None:
        places = [("features", config.features, s.source, f"{s.number}.parquet") for s in shards]
        held_out = [("eval_features", config.features, f"{name}.parquet") for name in sets]
        features = [marks.get(KEY) for marks in root.parquet_metadatas([*places, *held_out])]
    return fingerprint(_name(config), VERSION, made_from, sets, features)


def _file(name: str, shard: ShardId) -> tuple[str, ...]:
    return "verdicts", name, shard.source, f"{shard.number}.parquet"


def _total(by_source: Counts) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts in by_source.values():
        total.update(counts)
    return total


def _print(account: Account, by_source: Counts, overlaps: dict[str, Counts]) -> None:
    say(f"dedupe: {account.text()}; {account.shards_done} files new or changed")
    for source, counts in by_source.items():
        say(f"dedupe: {source}: {_text(counts)}")
    for name, sources in overlaps.items():
        held = "; ".join(f"{source}: {_text(counts)}" for source, counts in sources.items())
        say(f"dedupe: in evaluation set {name}: {held or 'none'}")


def _text(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {kind}" for kind, n in counts.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater dedupe`."""
    return job_main("dedupe", DedupeConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
