"""From shards to SQL: scores, verdicts, catalog, mixture, history of a sample, difference of mixtures."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.tasks import Task, write_task
from filters.errors import ConfigError, InputError
from pipelines import build_mix, dedupe, download, index, ingest, score, signals
from pipelines.cli import main
from pipelines.questions import QUESTIONS, page
from pipelines.store.catalog import connect
from pipelines.store.models import score_columns
from pipelines.store.root import Root
from pipelines.store.schema import SHARD, SIGNALS, features, verdicts
from pipelines.web.config import FetchConfig
from tests.pipelines.chain import cc12m_dump, picture, picture_server

ROWS = 20
COPY, LEAK, GONE = 3, 5, 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Root]:
    """Twenty rows: number 3 copies number 4, number 5 is an evaluation picture, number 7 is gone."""
    folder = tmp_path_factory.mktemp("catalog")
    root = Root(str(folder / "root"))
    dump = cc12m_dump(folder, ROWS)
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump), samples_per_shard=8))
    faults: dict[str, list[tuple[int, dict[str, str], bytes]]] = {
        f"/{COPY}.png": [(200, {}, picture(COPY + 1))],
        f"/{GONE}.png": [(404, {}, b"")],
    }
    with picture_server(faults) as server:
        fetch = FetchConfig(resolve=server.resolve)
        download.run(download.DownloadConfig(root=root.url, local=True, fetch=fetch))
    shown = [picture(number) for number in (LEAK, 100, 101, 102)]
    names = ["leaked", "one", "two", "three"]
    write_task(root.local("eval", "unseen"), Task("unseen", shown, np.arange(4), names, ["{c}"], names))
    score.run(score.ScoreConfig(root=root.url, local=True, model=str(tiny_model)))
    dedupe.run(dedupe.DedupeConfig(root=root.url, local=True, tasks="eval"))
    entries = folder / "entries.txt"
    entries.write_text("picture\nnumber 1\nunheard of\n", encoding="utf-8")
    signals.run(signals.SignalsConfig(root=root.url, local=True, entries=str(entries), blocklist=str(entries)))
    index.run(index.IndexConfig(root=root.url))
    for name, total in (("small", 5), ("large", 10)):
        build_mix.run(mixture(root, name=name, total=total))
    index.run(index.IndexConfig(root=root.url))
    yield root


def mixture(root: Root, **fields: Any) -> build_mix.MixJobConfig:
    return build_mix.MixJobConfig.model_validate({"root": root.url, "sources": [{"source": "cc12m"}], **fields})


def sample(root: Root, number: int) -> dict[str, Any]:
    with connect(root) as con:
        rows = con.sql("SELECT * FROM samples WHERE url LIKE ?", params=[f"%/{number}.png"]).to_arrow_table()
    (row,) = rows.to_pylist()
    return dict(row)


def test_every_column_has_its_meaning(root: Root) -> None:
    with connect(root) as con:
        rows = con.execute('SELECT "column", meaning FROM columns WHERE "table" = \'samples\'').fetchall()
    schemas = (features(1), verdicts(["unseen"]), SIGNALS, SHARD)
    meanings = {column.name: column.meaning for schema in schemas for column in schema.columns}
    found = dict(rows)
    (model,) = set(found) - set(meanings)
    assert model == score_columns(root)[root.names("features")[0]]
    assert found.pop(model).startswith(meanings["clip_score"])
    assert found == {name: meanings[name] for name in found}


def test_samples_join_scores_and_verdicts(root: Root) -> None:
    copy, original = sample(root, COPY), sample(root, COPY + 1)
    assert {copy["duplicate_of"], original["duplicate_of"]} == {None, min(copy["uid"], original["uid"])}
    assert (sample(root, LEAK)["eval_set"], sample(root, LEAK)["eval_kind"]) == ("unseen", "exact_bytes")
    assert sample(root, LEAK)["eval_in_unseen"] == "exact_bytes"
    gone = sample(root, GONE)
    assert (gone["status"], gone["reason"], gone["clip_score"]) == ("failed_to_download", "http_404", None)
    assert gone["caption_words"] is None
    assert -1 <= sample(root, 0)["clip_score"] <= 1


def test_samples_join_signals_and_entries_are_counted(root: Root) -> None:
    # The caption of number 1 is "a picture of number 1".
    one = sample(root, 1)
    assert (one["caption_words"], one["caption_chars"], one["language"], one["entries"]) == (5, 21, "en", [0, 1])
    assert (one["caption_blocked"], one["text_based"]) == (True, None)
    with connect(root) as con:
        assert con.execute("SELECT text, matches FROM entries ORDER BY entry").fetchall() == [
            ("picture", ROWS - 1), ("number 1", 1), ("unheard of", 0),
        ]  # fmt: skip
        query = "SELECT count(*) FROM samples WHERE datacomp_basic(samples)"
        assert con.execute(query).fetchone() == (0,)  # pictures of 48 pixels
        query = "SELECT count(*) FROM samples WHERE metaclip_probability(entries, 9.5) = 0.5 AND entries = [0]"
        assert con.execute(query).fetchone() == (ROWS - 2,)


def test_embeddings_are_unit_length_and_give_the_score(root: Root) -> None:
    (name,) = root.names("features")
    table = root.read_table("features", name, "cc12m", "00000.parquet")
    image, text = (np.array(table[c].to_pylist(), np.float32) for c in ("image_embedding", "text_embedding"))
    assert np.allclose(np.linalg.norm(image, axis=1), 1, atol=2e-3)
    # Embeddings are stored in half precision, the score is not: rounding leaves about three digits.
    assert np.allclose((image * text).sum(axis=1), table["clip_score"].to_numpy(), atol=2e-3)


def test_sources_shards_runs_and_mixtures_answer(root: Root) -> None:
    with connect(root) as con:
        assert con.execute("SELECT records, successes, duplicates, eval_overlaps FROM sources").fetchall() == [
            (ROWS, ROWS - 1, 1, 1)
        ]
        assert con.execute("SELECT count(*), sum(records) FROM shards").fetchone() == (3, ROWS)
        assert con.execute("SELECT mixture, samples FROM mixtures").fetchall() == [("large", 10), ("small", 5)]


def test_the_catalog_is_built_again_only_when_something_changed(root: Root) -> None:
    assert index.run(index.IndexConfig(root=root.url))["up_to_date"]
    path = root.local("catalog.duckdb")
    before = path.stat().st_mtime_ns
    assert index.run(index.IndexConfig(root=root.url, rebuild=True))["rows_in"] == ROWS
    assert path.stat().st_mtime_ns > before


def test_a_reader_keeps_its_catalog_while_a_new_one_is_published(root: Root) -> None:
    with connect(root) as con:
        index.run(index.IndexConfig(root=root.url, rebuild=True))
        assert con.execute("SELECT count(*) FROM samples").fetchone() == (ROWS,)


def test_the_catalog_is_read_only_and_closed(root: Root) -> None:
    with connect(root) as con:
        for statement in (
            "DELETE FROM samples",
            "FROM read_text('/etc/hostname')",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                con.execute(statement)


def test_explain_tells_the_history(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--root", root.url, sample(root, GONE)["uid"]]) == 0
    history = json.loads(capsys.readouterr().out)
    assert history["sample"]["reason"] == "http_404"
    assert history["mixtures"] == dict.fromkeys(("large", "small"), "out: failed_to_download (http_404)")
    assert main(["explain", "--root", root.url, sample(root, LEAK)["uid"]]) == 0
    assert "unseen holds the same picture" in json.loads(capsys.readouterr().out)["mixtures"]["small"]


def test_mix_diff_counts_what_entered(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mix-diff", "--root", root.url, "small", "large", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"source": "cc12m", "left_out": 0, "entered": 5, "in_both": 5}
    assert main(["mix-diff", "--root", root.url, "small", "huge"]) == 2
    assert "'huge' is not in the catalog" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT clipscore FROM samples", "Nearest columns: clip_score"),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("DROP TABLE samples", "read-only"),
        ("FROM read_text('/etc/hostname')", "disabled"),
    ],
)
def test_wrong_sql_is_one_line(root: Root, query: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--root", root.url, query]) == 2
    printed = capsys.readouterr().err.strip()
    assert says in printed
    assert "\n" not in printed


def test_sql_prints_csv_json_and_a_table(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT status, count(*) AS n FROM samples GROUP BY ALL ORDER BY n"
    for form, text in (("json", '{"status": "success", "n": 19}'), ("csv", '"success",19'), ("table", "success")):
        assert main(["sql", "--root", root.url, query, "--format", form]) == 0
        assert text in capsys.readouterr().out


def test_lock_file_records_what_was_asked_and_got(root: Root) -> None:
    lock = root.read_json("mixes", "small", "mix.lock.json")
    assert (lock["asked"], lock["samples"]) == (5, 5)
    assert dict(lock["attrition"][0]["steps"])["not_in_evaluation"] == ROWS - 3
    assert build_mix.run(mixture(root, name="small", total=5))["up_to_date"]
    pairs = np.load(root.local("mixes", "small", "uids.npy"))
    assert (pairs.dtype, len(pairs)) == (np.dtype("u8,u8"), 5)


def test_a_dry_run_of_a_mixture_says_what_each_source_gives(root: Root) -> None:
    planned = build_mix.plan(mixture(root, name="tried", total=4))
    assert planned["samples"] == 4
    assert not root.exists("mixes", "tried")


def test_too_few_samples_are_an_error_with_numbers(root: Root) -> None:
    with pytest.raises(InputError, match=f"cc12m: 100 asked, {ROWS - 3} there"):
        build_mix.run(mixture(root, name="much", total=100))


@pytest.fixture
def copied(root: Root, tmp_path: Path) -> Root:
    """A root of one's own to damage."""
    shutil.copytree(root.url, tmp_path / "copy")
    return Root(str(tmp_path / "copy"))


def rows_in(root: Root, table: str = "samples") -> int:
    with connect(root) as con:
        [(count,)] = con.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


def test_a_sidecar_without_its_shard_counts_no_sample_twice(copied: Root, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("features", "verdicts", "signals"):
        (name,) = copied.names(stage)
        folder = copied.local(stage, name, "cc12m")
        shutil.copy(folder / "00000.parquet", folder / "00009.parquet")
        (folder / "00001.parquet").unlink()
    index.run(index.IndexConfig(root=copied.url))
    assert rows_in(copied) == ROWS
    printed = capsys.readouterr().err
    assert "pictures came after the last `headwater score`" in printed
    assert "pictures came after the last `headwater dedupe`" in printed
    assert "pictures came after the last `headwater signals`" in printed


def test_what_a_killed_publication_left_is_taken_away(copied: Root) -> None:
    folder = copied.local("catalog")
    left, old = folder / ".writing-x", [folder / "unnamed.duckdb", folder / ".writing-x" / "half.duckdb"]
    left.mkdir()
    for path in old:
        path.write_bytes(b"half")
    recent = folder / "recent.duckdb"
    shutil.copy(old[0], recent)
    for path in (*old, left):
        os.utime(path, (0, 0))
    index.run(index.IndexConfig(root=copied.url, rebuild=True))
    assert rows_in(copied) == ROWS
    assert not left.exists()
    assert not old[0].exists()
    assert recent.exists()  # a reader may have just learned its name


def test_a_root_where_every_download_failed_is_indexed(tmp_path: Path, tiny_model: Path) -> None:
    root = Root(str(tmp_path / "root"))
    dump = cc12m_dump(tmp_path, 3, host="localhost")
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(dump)))
    download.run(download.DownloadConfig(root=root.url, local=True))
    assert score.run(score.ScoreConfig(root=root.url, local=True, model=str(tiny_model)))["rows_in"] == 0
    assert dedupe.run(dedupe.DedupeConfig(root=root.url, local=True))["rows_in"] == 0
    assert index.run(index.IndexConfig(root=root.url))["counts"] == {"skipped": 3}


def test_a_foreign_file_among_the_runs_is_named(copied: Root) -> None:
    copied.write_json([], "runs", "x.json")
    with pytest.raises(InputError, match=r"x\.json: is not the record of a run"):
        index.run(index.IndexConfig(root=copied.url))


@pytest.mark.parametrize(
    ("command", "damaged", "says"),
    [
        (["sql", "SELECT 1"], "catalog.duckdb", "is not a catalog that can be read"),
        (["index", "--rebuild"], "shards/cc12m/00001.parquet", "a published file cannot be read"),
        (["index", "--rebuild"], "features/*/cc12m/00001.parquet", "a published file cannot be read"),
        (["index", "--rebuild"], "mixes/small/mix.lock.json", "mix.lock.json: cannot be read"),
        (["index", "--rebuild"], "mixes/small/manifest.parquet", "a published file cannot be read"),
        (["index", "--rebuild"], "signals/*/cc12m/00001.parquet", "a published file cannot be read"),
    ],
)
def test_damaged_files_are_one_line(
    copied: Root, command: list[str], damaged: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (victim,) = Path(copied.url).glob(damaged)
    victim.write_bytes(b"PAR1 damaged")
    code = main([command[0], "--root", copied.url, *command[1:]])
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headwater")]
    assert code in (1, 2)
    assert len(printed) == 1
    assert says in printed[0]


def test_a_catalog_of_another_version_is_built_again(copied: Root) -> None:
    with duckdb.connect(str(copied.local("catalog.duckdb"))) as con:
        con.execute("UPDATE catalog_info SET value = '0' WHERE name = 'schema_version'")
    with pytest.raises(InputError, match="of another version; run `headwater index"):
        connect(copied)
    index.run(index.IndexConfig(root=copied.url))
    assert rows_in(copied) == ROWS


def test_a_mixture_without_its_manifest_is_not_there(copied: Root) -> None:
    copied.remove("mixes", "small", "manifest.parquet")
    index.run(index.IndexConfig(root=copied.url))
    assert rows_in(copied, "mixtures") == 1
    build_mix.run(mixture(copied, name="small", total=5))
    assert copied.exists("mixes", "small", "manifest.parquet")


def test_nested_and_repeated_columns_are_printed(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT captions, 1 AS a, 2 AS a FROM samples LIMIT 1"
    assert main(["sql", "--root", root.url, query, "--format", "csv"]) == 0
    assert capsys.readouterr().out.startswith('"captions","a","a_1"\n"[""a picture of')
    assert main(["sql", "--root", root.url, query, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["a"], answer["a_1"]) == (1, 2)


def test_two_models_must_be_told_apart(root: Root, tmp_path: Path) -> None:
    (model,) = root.names("features")
    other = root.local("features", "0123456789ab")
    shutil.copytree(root.local("features", model), other)
    try:
        with pytest.raises(ConfigError, match="several fingerprints"):
            index.run(index.IndexConfig(root=root.url))
        with pytest.raises(ConfigError, match="'none' is not under"):
            index.run(index.IndexConfig(root=root.url, features="none"))
    finally:
        shutil.rmtree(other)


def test_a_report_without_its_reference_is_an_error(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--root", root.url, "--reference", "imagenet"]) == 2
    assert "reference 'imagenet': no result has such a set" in capsys.readouterr().err
    assert not root.exists("report", "index.html")


def test_schema_shows_meanings_and_names_near_ones(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--root", root.url, "samples", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"column": "width", "type": "INTEGER", "meaning": "width of the stored picture in pixels"} in rows
    assert main(["schema", "--root", root.url]) == 0
    assert "mixture_samples" in capsys.readouterr().out
    assert main(["schema", "--root", root.url, "sample"]) == 2
    assert "no table 'sample'; there is samples" in capsys.readouterr().err


def test_an_answer_as_parquet(root: Root, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    query = "SELECT uid, captions, status FROM samples ORDER BY uid"
    assert main(["sql", "--root", root.url, query, "--format", "parquet"]) == 0
    table = pq.read_table(pa.BufferReader(capfdbinary.readouterr().out))
    with connect(root) as con:
        assert table.to_pylist() == con.sql(query).to_arrow_table().to_pylist()


def test_every_question_of_the_page_has_an_answer(root: Root) -> None:
    with connect(root) as con:
        text = page(con)
    assert len(QUESTIONS) == text.count("```sql") == 15
    assert "records" in text


def test_memory_that_is_no_size_is_one_line(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--root", root.url, "--rebuild", "--memory", "lots"]) == 2
    assert "memory: 'lots' is not a size such as 4GB" in capsys.readouterr().err


def test_a_mixture_is_proved_after_a_rebuild_bytes_included(copied: Root, capsys: pytest.CaptureFixture[str]) -> None:
    index.run(index.IndexConfig(root=copied.url, rebuild=True))
    capsys.readouterr()
    assert main(["mix", "--root", copied.url, "--verify", "small"]) == 0
    proof = json.loads(capsys.readouterr().out)
    assert (proof["verified"], proof["bytes"], proof["same_catalog"]) == (True, True, True)
