"""The catalog over sidecars of every stage, written by hand: models, evaluation sets, entries, presets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from filters.errors import ConfigError, InputError, ShardError
from pipelines import build_mix, index
from pipelines.cli import main
from pipelines.store import presets
from pipelines.store.catalog import connect
from pipelines.store.fingerprint import KEY
from pipelines.store.models import ModelInfo, write_model
from pipelines.store.presets import B32, L14
from pipelines.store.root import Root
from pipelines.store.schema import SHARD, SIGNALS, Schema, features, verdicts
from pipelines.store.stages import STAGES, stage_of

ROWS = 10
BASE, LARGE = "b32", "l14"


def uid(source: str, i: int) -> str:
    return f"{ord(source[0]):016x}{i * 2**50:016x}"


def shard(source: str, rows: range, **changes: Any) -> list[dict[str, Any]]:
    """Every fifth row failed; widths grow from 150 by 10."""
    return [
        {
            **dict.fromkeys(SHARD.names), "uid": uid(source, i), "uid_lo": i * 2**50, "source": source, "attempt": 0,
            "shard": "00000", "key": f"{i:05d}", "caption": f"a picture of {i}", "offset": i, "size": 1,
            "status": "success" if i % 5 else "failed_to_download", "reason": "ok" if i % 5 else "timeout",
            "original_width": 150 + 10 * i, "original_height": 300, "original_bytes": 9000, **changes,
        }
        for i in rows
    ]  # fmt: skip


def put(root: Root, schema: Schema, rows: list[dict[str, Any]], *folder: str, number: str = "00000") -> None:
    filled = [{**dict.fromkeys(schema.names), **row} for row in rows]
    table = pa.Table.from_pylist(filled, schema.arrow)
    root.write_table(table, *folder, f"{number}.parquet", metadata={KEY: "x".join(folder)})


def put_scores(root: Root, model: str, source: str, scores: dict[int, float], number: str = "00000") -> None:
    vector = {"image_embedding": [0.0, 0.0], "text_embedding": [0.0, 0.0]}
    rows = [{"uid": uid(source, i), "clip_score": score, **vector} for i, score in scores.items()]
    put(root, features(2), rows, "features", model, source, number=number)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Two sources of one shard, two models, one run of dedupe and of signals; eight pictures each."""
    root = Root(str(tmp_path / "root"))
    there = [i for i in range(ROWS) if i % 5]
    for source in ("ant", "bee"):
        put(root, SHARD, shard(source, range(ROWS)), "shards", source)
        for model in (BASE, LARGE):
            put_scores(root, model, source, {i: i / 10 + (source == "bee") * 0.05 for i in there})
        held = "imagenet_v2" if source == "ant" else "objectnet"
        kinds = [{"uid": uid(source, i), f"eval_in_{held}": "near" if i == 1 else None} for i in there]
        put(root, verdicts([held]), kinds, "verdicts", "v1", source)
        root.write_json({}, "verdicts", "v1", "dedupe.json")
        signal: dict[str, Any] = {"caption_words": 4, "caption_chars": 14, "language": "en"}
        rows = [{"uid": uid(source, i), **signal, "entries": [0] if i < 4 else [0, 2]} for i in there]
        put(root, SIGNALS, rows, "signals", "s1", source)
    root.write_bytes(b"of\nthe cat\npicture\n", "signals", "s1", "entries.txt")
    for model, name in ((BASE, "ViT-B-32"), (LARGE, "ViT-L-14")):
        write_model(root, model, ModelInfo(model=name, pretrained="openai", precision="fp32", dim=2))
    return root


def indexed(root: Root, **fields: Any) -> dict[str, Any]:
    return index.run(index.IndexConfig.model_validate({"root": root.url, "features": BASE, **fields}))


def ask(root: Root, query: str) -> list[tuple[Any, ...]]:
    with connect(root) as con:
        return [tuple(row) for row in con.execute(query).fetchall()]


def test_each_model_has_its_column_and_the_chosen_one_is_clip_score(root: Root) -> None:
    put_scores(root, LARGE, "ant", {1: 0.9})
    indexed(root)
    query = f"SELECT clip_score, {B32}, {L14} FROM samples WHERE uid = '{uid('ant', 1)}'"
    assert [[round(x, 4) for x in row] for row in ask(root, query)] == [[0.1, 0.1, 0.9]]
    indexed(root, features=LARGE)
    assert [[round(x, 4) for x in row] for row in ask(root, query)] == [[0.9, 0.1, 0.9]]
    with pytest.raises(ConfigError, match=r"features: several fingerprints \(b32, l14\); choose one"):
        indexed(root, features=None)


def test_verdicts_of_a_killed_run_are_refused(root: Root) -> None:
    root.remove("verdicts", "v1", "dedupe.json")
    with pytest.raises(InputError, match="verdicts/v1: a run of `headwater dedupe` has not come to its end; run it"):
        indexed(root)


def test_a_published_threshold_is_applied_to_no_other_models_cosines(root: Root) -> None:
    indexed(root)
    assert ask(root, "SELECT count(*) FROM samples WHERE laion2b(samples)") == [(12,)]
    write_model(root, BASE, ModelInfo(model="ViT-B-32", pretrained="laion400m_e32", precision="fp32", dim=2))
    indexed(root)
    assert ask(root, "SELECT count(clip_vit_b_32_laion400m_e32_score) FROM samples") == [(16,)]
    with pytest.raises(duckdb.Error, match="run `headwater score --model ViT-B-32 --pretrained openai`"):
        ask(root, "SELECT count(*) FROM samples WHERE laion2b(samples)")
    lacks = ask(root, "SELECT preset FROM presets WHERE lacks LIKE '%--model ViT-B-32 --pretrained openai%'")
    assert {name for (name,) in lacks} == {"laion400m", "laion2b"}


def test_what_a_run_leaves_that_failed_at_once_is_not_chosen_among(root: Root) -> None:
    write_model(root, "a", ModelInfo(model="ViT-B-32", pretrained="openai", precision="fp32", dim=2))
    root.write_bytes(b"of\n", "signals", "s0", "entries.txt")
    indexed(root)
    assert ask(root, f"SELECT count({B32}) FROM samples") == [(16,)]
    assert ask(root, "SELECT count(*) FROM duckdb_columns() WHERE column_name LIKE 'clip_b32%_b32'") == [(0,)]
    with pytest.raises(ConfigError, match=r"features: 'a' is not under .*; there is b32, l14"):
        indexed(root, features="a")


def test_a_row_that_could_not_be_scored_has_no_score_and_is_not_missing(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    there = [{"uid": uid("ant", i), "clip_score": i / 10 if i > 1 else None} for i in range(ROWS) if i % 5]
    put(root, features(2), there, "features", BASE, "ant")
    indexed(root)
    assert ask(root, f"SELECT count(clip_score), count({B32}) FROM samples WHERE source = 'ant'") == [(7, 7)]
    assert "came after" not in capsys.readouterr().err


def test_a_score_that_is_no_number_passes_no_threshold(root: Root) -> None:
    put_scores(root, BASE, "ant", {1: math.nan, 2: math.inf, 3: -math.inf, 4: 0.9})
    indexed(root)
    assert ask(root, f"SELECT count({B32}), count(*) FILTER ({B32} > 0.5) FROM samples WHERE source = 'ant'") == [
        (1, 1)
    ]
    assert ask(root, "SELECT count(*) FROM samples WHERE source = 'ant' AND laion2b(samples)") == [(1,)]


def test_verdicts_of_every_evaluation_set_are_columns(root: Root) -> None:
    indexed(root)
    query = "SELECT source::VARCHAR, count(eval_in_imagenet_v2), count(eval_in_objectnet) FROM samples GROUP BY 1"
    assert sorted(ask(root, query)) == [("ant", 1, 0), ("bee", 0, 1)]
    query = "SELECT meaning FROM columns WHERE \"table\" = 'samples' AND \"column\" = 'eval_in_objectnet'"
    assert "evaluation set objectnet" in ask(root, query)[0][0]


def test_every_column_of_samples_has_a_comment(root: Root) -> None:
    indexed(root)
    query = "SELECT column_name FROM duckdb_columns() WHERE database_name = 'catalog' AND comment IS NULL"
    assert ask(root, f"{query} AND NOT starts_with(table_name, 'catalog_')") == []
    assert ask(root, "SELECT count(*) FROM columns WHERE meaning IS NULL") == [(0,)]


def test_entries_are_counted_over_the_samples(root: Root) -> None:
    indexed(root)
    # Of each source's pictures 1 to 4 and 6 to 9, those from 4 on hold the third entry too.
    assert ask(root, "FROM entries") == [(0, "of", 16), (1, "the cat", 0), (2, "picture", 10)]
    query = "SELECT DISTINCT metaclip_probability(entries, 4) FROM samples WHERE status = 'success' ORDER BY 1"
    assert ask(root, query) == [(0.25,), (0.55,)]


def test_stages_that_have_not_run_leave_their_columns_null(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "bare"))
    put(root, SHARD, shard("ant", range(ROWS)), "shards", "ant")
    indexed(root, features=None)
    names = [column.name for stage in STAGES for column in stage.columns]
    counts = ", ".join(f'count("{name}")' for name in names)
    assert ask(root, f"SELECT {counts} FROM samples") == [(0,) * len(names)]
    assert ask(root, "SELECT count(*) FROM entries") == [(0,)]
    with pytest.raises(ConfigError, match=r"datacomp_basic needs the columns .*: run `headwater signals`"):
        build_mix.plan(mixture(root, where="datacomp_basic(samples)"))


def test_shards_of_an_older_version_lack_columns_and_are_read(root: Root) -> None:
    old = pa.Table.from_pylist(shard("old", range(3)), SHARD.arrow).drop(["frames", "original_bytes", "entropy"])
    root.write_table(old, "shards", "old", "00000.parquet", metadata={KEY: "old"})
    indexed(root)
    query = "SELECT source::VARCHAR, count(original_bytes), count(original_width) FROM samples GROUP BY 1"
    assert sorted(ask(root, query)) == [("ant", 10, 10), ("bee", 10, 10), ("old", 0, 3)]


def test_a_retry_has_the_scores_of_the_first_attempt_and_signals_of_its_own(root: Root) -> None:
    put_scores(root, BASE, "ant", dict.fromkeys(range(ROWS), 0.5))
    retried = shard("ant", range(0, 10, 5), attempt=1, status="success", reason="ok", shard="00001")
    put(root, SHARD, retried, "shards", "ant", number="00001")
    indexed(root)
    query = "SELECT count(*), count(clip_score), count(language) FROM samples WHERE attempt = 1"
    assert ask(root, query) == [(2, 2, 0)]


def test_index_says_which_stages_miss_pictures(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, SHARD, shard("new", range(ROWS)), "shards", "new")
    put_scores(root, BASE, "new", dict.fromkeys(range(ROWS), 0.5))
    indexed(root)
    printed = capsys.readouterr().err
    for command in (f"`headwater score` for {L14}", "`headwater dedupe`", "`headwater signals`"):
        assert f"8 pictures came after the last {command}; run it again" in printed
    assert B32 not in printed


def test_the_catalog_follows_signals_models_and_definitions(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed(root)
    assert indexed(root)["up_to_date"]
    row = {"uid": uid("ant", 1), "language": "de"}
    root.write_table(pa.Table.from_pylist([{**dict.fromkeys(SIGNALS.names), **row}], SIGNALS.arrow),
                     "signals", "s1", "ant", "00000.parquet", metadata={KEY: "new"})  # fmt: skip
    assert "up_to_date" not in indexed(root)
    write_model(root, LARGE, ModelInfo(model="x", pretrained=None, precision="fp32", dim=2))
    assert "up_to_date" not in indexed(root)
    assert ask(root, "SELECT count(clip_x_score) FROM samples") == [(16,)]
    monkeypatch.setattr(presets, "digest", lambda: "another definition")
    assert "up_to_date" not in indexed(root)


def test_damaged_signals_are_one_line(root: Root) -> None:
    root.write_bytes(b"PAR1 damaged", "signals", "s1", "ant", "00000.parquet")
    with pytest.raises(ShardError, match="a published file cannot be read"):
        indexed(root)


def test_a_list_of_entries_that_was_cut_is_refused(root: Root) -> None:
    root.write_bytes(b"of\nthe cat\n", "signals", "s1", "entries.txt")
    with pytest.raises(
        ShardError, match=r"captions hold entry 2, entries\.txt ends at 1; run `headwater signals` again"
    ):
        indexed(root)


def test_presets_lists_what_each_lacks(root: Root) -> None:
    indexed(root)
    lacks = dict(ask(root, "SELECT preset, lacks FROM presets"))
    assert list(lacks) == [preset.name for preset in presets.PRESETS]
    # These shards have no grey levels either.
    assert {name for name, text in lacks.items() if text} == {
        "text_based",
        "image_based",
        "image_and_clip",
        "not_blank",
        "not_low_entropy",
    }
    assert lacks["text_based"] == "needs the column text_based: run `headwater signals --classes FILE`, then " \
        "`headwater index`"  # fmt: skip


def test_headwater_sql_knows_the_presets(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    indexed(root)
    for call, count in (
        ("datacomp_basic(samples)", 8),  # widths 210, 220, 230 and 240 of both sources
        ("laion2b(samples)", 12),
        ("laion400m(samples)", 12),
        ("clip_top(samples, 0.25)", 5),
        ("clip_top_in_source(samples, 0.25)", 6),
    ):
        query = f"SELECT count(*) AS n FROM samples WHERE {call}"
        assert main(["sql", "--root", root.url, query, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"n": count}, call
    for query, says in (
        (
            "SELECT count(*) FROM samples WHERE text_based(samples)",
            "sql: text_based needs the column text_based: run",
        ),
        ("SELECT count(*) FROM samples AS s WHERE laion2b(samples)", "give a preset that name, as in laion2b(s)"),
        ("SELECT count(*) FROM samples WHERE laion2c(samples)", 'Did you mean "laion2b"'),
    ):
        assert main(["sql", "--root", root.url, query]) == 2
        printed = capsys.readouterr().err.strip()
        assert says in printed
        assert "\n" not in printed


def test_explain_shows_what_each_stage_found_and_the_presets(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    indexed(root)
    assert main(["explain", "--root", root.url, uid("bee", 1)]) == 0
    history = json.loads(capsys.readouterr().out)
    assert set(history["features"]) == {"clip_score", B32, L14}
    assert history["verdicts"] == {"eval_in_objectnet": "near"}
    assert history["signals"] == {"caption_words": 4, "caption_chars": 14, "language": "en", "entries": [0]}
    found = history["presets"]
    assert (found["laion2b"], found["datacomp_basic"]) == (False, False)
    assert "run `headwater signals --classes FILE`" in found["text_based"]
    assert stage_of("caption") is None


def mixture(root: Root, **fields: Any) -> build_mix.MixJobConfig:
    values = {"root": root.url, "name": "m", "total": 4, "sources": [{"source": "ant"}], **fields}
    return build_mix.MixJobConfig.model_validate(values)


def test_a_mixture_by_presets(root: Root) -> None:
    indexed(root)
    sources = [
        {"source": "ant", "where": "keep(uid_lo, 0, metaclip_probability(entries, 100))"},
        {"source": "bee", "where": "clip_top_in_source(samples, 0.5)"},
    ]
    config = mixture(root, where="datacomp_basic(samples) AND clip_top(samples, 0.9)", sources=sources)
    assert build_mix.run(config)["rows_in"] == 4
    lock = root.read_json("mixes", "m", "mix.lock.json")
    assert [row["steps"][-2:] for row in lock["attrition"]] == [
        [["where", 4], ["source_where", 4]], [["where", 4], ["source_where", 4]],
    ]  # fmt: skip
    assert lock["top"] is None
    assert build_mix.run(config)["up_to_date"]


def test_a_global_threshold_and_what_it_did_to_the_ratio(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    put_scores(root, BASE, "bee", {i: i / 10 - 0.3 for i in range(ROWS) if i % 5})
    indexed(root)
    config = mixture(
        root, top_fraction=0.5, top_scope="global", top_score=B32, sources=[{"source": "ant"}, {"source": "bee"}]
    )
    build_mix.run(config)
    ant, bee = root.read_json("mixes", "m", "mix.lock.json")["top"]["sources"]
    # From the top, with position 8 of 16 last: 0.9, 0.8, 0.7, 0.6, 0.4 and 0.3 of ant, 0.6, 0.5, 0.4 and 0.3 of bee.
    assert (ant["threshold"], ant["scored"], ant["before"], ant["kept"]) == (pytest.approx(0.3), 16, 8, 6)
    assert (bee["before"], bee["kept"], bee["kept_fraction"]) == (8, 4, 0.5)
    assert (ant["share_before"], ant["share_after"], bee["share_after"]) == (0.5, 0.6, 0.4)
    assert "ant 75.0% (share 50.0% to 60.0%), bee 50.0% (share 50.0% to 40.0%)" in capsys.readouterr().err
    planned = build_mix.plan(config)
    assert planned["top"]["scope"] == "global"
    assert planned["attrition"][0]["steps"][-1] == ["top_global", 6]
