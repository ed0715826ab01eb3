"""Questions that people ask of a catalog, as a page with their answers.

python -m pipelines.questions --root build/demo > docs/sql.md
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import pyarrow as pa
from rich.console import Console

from filters.errors import HeadwaterError
from pipelines.job import say
from pipelines.sql import grid, query
from pipelines.store.catalog import connect
from pipelines.store.root import Root


class Question(NamedTuple):
    """What is asked, and how in SQL."""

    title: str
    sql: str


QUESTIONS = (
    Question(
        "What became of each source's records?",
        "SELECT source, status, count(*) AS records,\n"
        "    round(100 * count(*) / sum(count(*)) OVER (PARTITION BY source), 1) AS percent\n"
        "FROM samples GROUP BY source, status ORDER BY source, records DESC",
    ),
    Question(
        "Why did records fail, and which reasons are worth another try?",
        "SELECT status, reason, count(*) AS records FROM samples WHERE status <> 'success'\n"
        "GROUP BY ALL ORDER BY records DESC LIMIT 12",
    ),
    Question(
        "Which hosts lose most?",
        "SELECT regexp_extract(url, '://([^/:]+)', 1) AS host, count(*) AS tried,\n"
        "    count(*) FILTER (status <> 'success') AS failed, round(100 * failed / tried, 1) AS percent\n"
        "FROM samples WHERE status <> 'skipped' GROUP BY host HAVING tried > 20 ORDER BY percent DESC, host LIMIT 8",
    ),
    Question(
        "What did a retry bring?",
        "SELECT source, attempt, count(*) AS tried, count(*) FILTER (status = 'success') AS stored\n"
        "FROM attempts GROUP BY ALL ORDER BY source, attempt",
    ),
    Question(
        "How are the scores of each source spread?",
        "SELECT source, count(clip_score) AS scored, round(quantile_cont(clip_score, 0.1), 3) AS p10,\n"
        "    round(median(clip_score), 3) AS median, round(quantile_cont(clip_score, 0.9), 3) AS p90\n"
        "FROM samples GROUP BY source ORDER BY median DESC",
    ),
    Question(
        "A histogram of scores",
        "SELECT *, repeat('#', (40 * samples / max(samples) OVER ())::INTEGER) AS bar FROM\n"
        "    (SELECT floor(clip_score * 10) / 10 AS from_score, count(*) AS samples\n"
        "    FROM samples WHERE clip_score IS NOT NULL GROUP BY from_score) ORDER BY from_score",
    ),
    Question(
        "What would a threshold keep of each source?",
        "SELECT source, count(*) FILTER (clip_score > 0.2) AS above_0_2,\n"
        "    count(*) FILTER (clip_score > 0.3) AS above_0_3,\n"
        "    count(*) FILTER (clip_score > 0.4) AS above_0_4, count(*) AS pictures\n"
        "FROM samples WHERE status = 'success' GROUP BY source ORDER BY source",
    ),
    Question(
        "What would each published filter keep?",
        "SELECT count(*) AS pictures, count(*) FILTER (datacomp_basic(samples)) AS datacomp_basic,\n"
        "    count(*) FILTER (not_elongated(samples)) AS not_elongated,\n"
        "    count(*) FILTER (not_blank(samples)) AS not_blank,\n"
        "    count(*) FILTER (clip_top(samples, 0.3, score := 'clip_score')) AS clip_top_30\n"
        "FROM samples WHERE status = 'success'",
    ),
    Question(
        "Which languages are the captions in?",
        "SELECT language, count(*) AS captions, round(avg(language_score), 2) AS how_sure\n"
        "FROM samples WHERE language IS NOT NULL GROUP BY language ORDER BY captions DESC LIMIT 8",
    ),
    Question(
        "Which sources hold the same pictures?",
        "SELECT a.source, b.source AS survivor_in, a.kind, count(*) AS pictures FROM samples a\n"
        "JOIN samples b ON b.uid = a.duplicate_of GROUP BY ALL ORDER BY pictures DESC, 1, 2, 3 LIMIT 10",
    ),
    Question(
        "Which evaluation pictures are in which source?",
        "SELECT source, eval_set, eval_kind, count(*) AS pictures FROM samples WHERE eval_set IS NOT NULL\n"
        "GROUP BY ALL ORDER BY source, eval_set, eval_kind LIMIT 12",
    ),
    Question(
        "How large are the pictures, before and after?",
        "SELECT source, round(median(original_width)) AS width, round(median(original_height)) AS height,\n"
        "    round(avg(original_bytes) / 1000, 1) AS kb_downloaded, round(avg(size) / 1000, 1) AS kb_stored\n"
        "FROM samples WHERE status = 'success' GROUP BY source ORDER BY source",
    ),
    Question(
        "Which captions come again and again?",
        "SELECT caption, count(*) AS samples, count(DISTINCT source) AS sources\n"
        "FROM samples WHERE status = 'success' GROUP BY caption\n"
        "HAVING samples > 1 ORDER BY samples DESC, caption LIMIT 5",
    ),
    Question(
        "How much of each mixture is of which source?",
        "SELECT mixture, source, count(*) AS samples,\n"
        "    round(100 * count(*) / sum(count(*)) OVER (PARTITION BY mixture), 1) AS percent\n"
        "FROM mixture_samples GROUP BY mixture, source ORDER BY mixture, source LIMIT 12",
    ),
    Question(
        "Which jobs ran, and how long did they take?",
        "SELECT job, status, count(*) AS runs, sum(rows_in)::BIGINT AS rows_seen\n"
        "FROM runs GROUP BY ALL ORDER BY job, status",
    ),
)

_INTRO = """# Asking the catalog

`headwater index` brings `catalog.duckdb` up to date: it reads the shards that are new or have changed, and writes
beside what is there. Readers of before keep what they have open. `headwater sql` answers one question, read-only
and closed to files and network; `--format csv`, `json` or `parquet` for programs. `headwater schema` lists all
columns with their meaning.

```
headwater index --root data
headwater schema --root data samples
headwater sql --root data "SELECT source, count(*) FROM samples GROUP BY ALL" --format parquet > counts.parquet
```

The file opens in Python (`duckdb.connect("data/catalog.duckdb", read_only=True)`) and in the `duckdb` shell too: it
is small, and its views read the segments in `data/catalog/` by their full path. A root that was moved needs
`headwater index` once for that; Headwater's own commands do not. A column's meaning is its comment, and a row of
the table `columns`.

The answers below are those of the demo (`make demo`, seed 0). This page is made by
`python -m pipelines.questions --root build/demo > docs/sql.md`.
"""


def page(con: duckdb.DuckDBPyConnection) -> str:
    """The page, every question with its answer."""
    parts = [_INTRO]
    for number, question in enumerate(QUESTIONS, 1):
        answer = _text(query(con, question.sql))
        parts.append(f"## {number}. {question.title}\n\n```sql\n{question.sql}\n```\n\n```\n{answer}\n```\n")
    return "\n".join(parts)


def _text(table: pa.Table) -> str:
    out = io.StringIO()
    Console(file=out, width=118).print(grid(table))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page for a root."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.questions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--root", default="data", help="data root (default 'data')")
    try:
        with connect(Root(parser.parse_args(argv).root)) as con:
            print(page(con), end="")
    except HeadwaterError as error:
        say(f"python -m pipelines.questions: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
