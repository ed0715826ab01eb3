"""Conditions: what is allowed works; what is hostile or wrong is one line, exit code 2, and touches no file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from filters.errors import ConfigError
from pipelines.cli import main
from pipelines.expression import bind, check
from pipelines.store.catalog import FILE, close
from pipelines.store.presets import macros
from pipelines.store.schema import SCHEMA_VERSION

COLUMNS = """uid VARCHAR, uid_lo UBIGINT, source VARCHAR, shard VARCHAR, "offset" BIGINT, size BIGINT, status VARCHAR,
    caption VARCHAR, captions VARCHAR[], clip_score FLOAT, language VARCHAR, entries INTEGER[], duplicate_of VARCHAR,
    kind VARCHAR, eval_set VARCHAR"""


def fill(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"CREATE TABLE samples ({COLUMNS})")
    con.execute("""INSERT INTO samples SELECT md5(i::VARCHAR), ('0x' || md5(i::VARCHAR)[17:])::UBIGINT, 'ant',
        '00000', i, 1, 'success', 'caption ' || i, ['one', 'two'], i / 20, 'en', [1], NULL, NULL, NULL
        FROM range(20) t(i)""")
    con.execute("CREATE TABLE entries (entry INTEGER, text VARCHAR, matches BIGINT)")
    con.execute("CREATE TABLE catalog_info (name VARCHAR, value VARCHAR)")
    con.execute("INSERT INTO catalog_info VALUES ('schema_version', ?), ('samples', 'x')", [str(SCHEMA_VERSION)])
    con.execute(
        "CREATE TABLE catalog_segments (name TEXT, source TEXT, rows INT, dead TEXT[], dead_rows INT, superseded INT)"
    )
    con.execute("CREATE TABLE catalog_lists (name TEXT)")
    con.execute("CREATE TABLE catalog_mixtures (mixture TEXT, name TEXT)")
    for statement in macros(["language", "clip_score"], ["clip_score"]):
        con.execute(statement)


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    fill(con)
    close(con)
    return con


@pytest.mark.parametrize(
    "text",
    [
        "clip_score BETWEEN 0.1 AND 0.2", "clip_score > 0.3 -- good ones", "NOT (language = 'de')",
        "language IN ('en', 'de')", "caption LIKE '50%%$%' ESCAPE '$'", "caption ~ '^a'", "caption ILIKE 'a%'",
        "caption COLLATE nocase = 'A'", "samples.caption IS NOT NULL", "coalesce(clip_score, 0) > 0.2",
        "CASE WHEN clip_score > 0.3 THEN true ELSE false END", "try_cast(caption AS INTEGER) > 3",
        "list_transform(captions, lambda c: lower(c))[1] = 'a'", "len([c for c in captions if c > 'a']) > 1",
        "list_max(entries) > 3", "split_part(caption, ' ', 1) = 'a'", "if(clip_score > 1, true, false)",
        "clip_top(samples, 0.3, score := 'clip_score')", "keep(uid_lo, 7, 0.5)",
    ],
)  # fmt: skip
def test_what_is_allowed(con: duckdb.DuckDBPyConnection, text: str) -> None:
    con.sql(f"SELECT count(*) FILTER ({bind(con, check(text), 'BOOLEAN', 'here')}) FROM samples").fetchall()


@pytest.mark.parametrize("text", ["caption", "captions[2]", "caption || ' by ' || source", "strip_accents(caption)"])
def test_captions(con: duckdb.DuckDBPyConnection, text: str) -> None:
    assert len(con.sql(f"SELECT {bind(con, text, 'VARCHAR', 'here')} FROM samples").fetchall()) == 20


@pytest.mark.parametrize(
    ("text", "says"),
    [("captions", r"gives VARCHAR\[\]"), ("uid_lo", "gives UBIGINT"), ("random()::VARCHAR", "random")],
)
def test_captions_that_are_none(con: duckdb.DuckDBPyConnection, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bind(con, text, "VARCHAR", "here")


WRONG: list[tuple[Any, str]] = [
    ("read_text('CANARY') IS NOT NULL", "function read_text is not allowed"),
    ("(SELECT count(*) FROM read_text('CANARY')) > 0", "a query inside"),
    ("EXISTS (SELECT 1 FROM 'CANARY')", "a query inside"),
    ("uid IN (SELECT content FROM read_blob('CANARY'))", "a query inside"),
    ("uid = ANY (['a'])", "a query inside"),
    ("read_csv('CANARY') IS NULL", "read_csv is not allowed"),
    ("glob('FOLDER/*') IS NULL", "glob is not allowed"),
    ("true; COPY samples TO 'FOLDER/written.csv'", "not one SQL condition"),
    ("true) FROM samples; COPY samples TO 'FOLDER/written.csv'; SELECT (true", "not one SQL condition"),
    ("true) FROM read_text('CANARY') -- ", "not one SQL condition"),
    ("false) OR (true", "not one SQL condition"),
    ("false], [true", "not one SQL condition"),
    ("true /*", "not one SQL condition"),
    ("true $$", "not one SQL condition"),
    ("true UNION SELECT true", "not one SQL condition"),
    ("INSTALL httpfs", "not one SQL condition"),
    ("ATTACH 'FOLDER/other.duckdb'", "Type with name ATTACH does not exist"),
    ("", "not one SQL condition"),
    ("-- nothing", "not one SQL condition"),
    ("true, false", "not one SQL condition"),
    ("clip_score >", "not one SQL condition"),
    ("NOT " * 5000 + "true", "depth limit"),
    ("(" * 5000 + "true" + ")" * 5000, "depth limit"),
    ("random() < 0.5", "random is not allowed"),
    ("now() > TIMESTAMP '2020-01-01'", "now is not allowed"),
    ("current_date > DATE '2020-01-01'", "no column 'current_date'"),
    ("(current_date::VARCHAR -> 'x') IS NULL", "arrow"),
    ("ago(INTERVAL 1 DAY) IS NULL", "ago is not allowed"),
    ("age(TIMESTAMP '2020-01-01') IS NULL", "age is not allowed"),
    ("nextval('s') = 1", "nextval is not allowed"),
    ("current_setting('threads') = '2'", "current_setting is not allowed"),
    ("getvariable('x') IS NULL", "getvariable is not allowed"),
    ("getenv('HOME') IS NULL", "getenv"),
    ("sleep_ms(100000) IS NULL", "sleep_ms is not allowed"),
    ("pg_sleep(100) IS NULL", "pg_sleep is not allowed"),
    ("write_log('x') IS NULL", "write_log is not allowed"),
    ("error('x')", "error is not allowed"),
    ("pg_get_viewdef(1) IS NULL", "pg_get_viewdef is not allowed"),
    ("json_execute_serialized_sql('x') IS NULL", "json_execute_serialized_sql is not allowed"),
    ("hash(uid) % 2 = 0", "hash is not allowed"),
    ("count(*) > 1", "over many rows"),
    ("list(caption ORDER BY uid) IS NULL", "many rows"),
    ("row_number() OVER () = 1", "window function"),
    ("main.keep(uid_lo, 0, 0.5)", "schema 'main'"),
    ("caption.lower() = 'a'", "schema 'caption'"),
    ("rowid < 10", "no column 'rowid'"),
    ("clip_scor > 0.3", "nearest: clip_score"),
    ("datacomp_basi(samples)", "nearest: datacomp_basic"),
    ("laion2b(samples)", "run `headwater score --model ViT-B-32"),
    ("clip_score", "gives FLOAT"),
    ("COLUMNS('c.*') IS NULL", "a star"),
    ("* IS NULL", "not one SQL condition|a star"),
    ("? = 1", "a parameter"),
    ("#1 = 1", "by its number"),
    ("\x00 = 1", "no column"),
    ("'\ud83d' = caption", "not one SQL condition"),
    ("caption::INTEGER > 3", "Could not convert"),
    ({"name": "../other"}, "field 'name'"),
    ({"name": "FOLDER/x"}, "field 'name'"),
    ({"total": 0}, "field 'total'"),
    ({"total": "many"}, "field 'total'"),
    ({"totl": 3}, "did you mean 'total'"),
    ({"seed": -1}, "field 'seed'"),
    ({"where": ["true"]}, "field 'where'"),
    ({"sources": []}, "field 'sources'"),
    ({"sources": [{"source": "ant"}, {"source": "ant"}]}, "listed twice"),
    ({"sources": [{"source": "bee"}]}, "not in the catalog; there is ant"),
    ({"sources": [{"source": "ant' OR '1' = '1"}]}, "not in the catalog"),
    ({"sources": [{"source": "ant", "weight": 0}]}, "weight"),
    ({"sources": [{"source": "ant", "weight": float("nan")}]}, "weight"),
    ({"sources": [{"source": "ant", "max_repeats": 0}]}, "max_repeats"),
    ({"sources": [{"source": "ant", "caption": "read_text('CANARY')"}]}, "read_text is not allowed"),
    ({"sources": [{"source": "ant", "caption": "caption\" FROM samples; COPY samples TO 'x'; --"}]}, "not one SQL"),
    ({"sources": [{"source": "ant", "caption": "captions"}]}, r"gives VARCHAR\[\]"),
    ({"top_fraction": 0.5, "top_score": "current_date"}, "`top_score` 'current_date' is no column"),
    ({"top_fraction": 0.5, "top_score": "1\"; COPY samples TO 'x'; --"}, "is no column"),
    ({"top_fraction": 2}, "top_fraction"),
    ({"on_shortage": "ignore"}, "on_shortage"),
    ({"total": 21}, "20 there"),
    ({"total": 21, "on_shortage": "repeat"}, r"raise `max_repeats` \(null for no limit\)"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    with duckdb.connect(str(folder / FILE)) as con:
        fill(con)
    (folder / "canary.txt").write_text("the canary sings")
    return folder


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry", "run"])
@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_hostile_and_wrong_mixtures(
    folder: Path, tmp_path: Path, wrong: Any, says: str, dry_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("CANARY", str(folder / "canary.txt")).replace("FOLDER", str(folder))
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return [placed(item) for item in value] if isinstance(value, list) else value

    fields = wrong if isinstance(wrong, dict) else {"where": wrong}
    page = {"name": "m", "total": 10, "sources": [{"source": "ant"}], **placed(fields)}
    path = tmp_path / "mix.yaml"
    path.write_text(yaml.safe_dump(page), encoding="utf-8")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if "runs" not in file.parts}
    code = main(["mix", "--root", str(folder), "--config", str(path), *(["--dry-run"] if dry_run else [])])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("headwater")]
    assert code == 2
    assert printed.out == ""
    assert len(lines) == 1
    assert re.search(says, lines[0]), lines[0]
    assert "sings" not in printed.err
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if "runs" not in file.parts} == before
    assert not (Path.cwd() / "x").exists()
    # Only the attrition table and warnings may stand beside the one line.
    rest = [line for line in printed.err.splitlines() if not line.startswith("headwater")]
    assert all(line.startswith(("mix: warning", "source ", "ant ")) for line in rest)
