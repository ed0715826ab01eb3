"""Small dumps in each source's raw format, and short ways to read them; for the tests of the readers."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import SOURCES
from pipelines.sources import rows as raw_tables
from pipelines.store.schema import RAW

WIT_HEADER = [
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
]


# What a source does not declare.
NOTHING: dict[str, None] = {
    "license": None, "nsfw_declared": None, "language_declared": None, "hash_declared": None,
    "scores_declared": None, "face_bboxes": None, "uid_declared": None,
}  # fmt: skip


def read(source: str, *files: Path | str) -> pa.Table:
    """All rows of `files`, with every table checked against the schema on the way."""
    tables = list(SOURCES[source].read(files))
    assert all(table.schema.equals(SOURCES[source].schema, check_metadata=True) for table in tables)
    assert all(len(table) <= raw_tables.BATCH_ROWS for table in tables)
    table = pa.concat_tables(tables).select(RAW.names)
    table.validate(full=True)
    return table


def rows(source: str, *files: Path | str) -> list[dict[str, Any]]:
    return [{**row, "caption_raw": dict(row["caption_raw"])} for row in read(source, *files).to_pylist()]


def captions(source: str, file: Path, recipe: str | None = None) -> list[list[str]]:
    used = SOURCES[source]
    made = used.captions(read(source, file), recipe or used.default_recipe)
    assert made.type == pa.list_(pa.string())
    listed: list[list[str]] = made.to_pylist()
    return listed


def yfcc_line(number: int, title: str, description: str, tags: str = "", marker: str = "0", **other: str) -> str:
    cells = [str(number), f"50{number}", "a1b2", "7@N00", "nick", "2008-01-01 10:00:00.0", "1200000000", "Canon"]
    cells += [title, description, tags, "", "", "", "", f"http://www.flickr.com/photos/7@N00/50{number}/"]
    cells += [other.get("url", f"http://farm1.staticflickr.com/1/50{number}_x.jpg"), "Attribution License"]
    cells += ["http://creativecommons.org/licenses/by/2.0/", "1", "1", "x", "y", "jpg", marker]
    return "\t".join(cells)


def yfcc_dump(folder: Path, *lines: str) -> Path:
    file = folder / "yfcc100m_dataset"
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def wit_dump(folder: Path, *records: dict[str, str], name: str = "wit_v1.train.all-00000-of-00010.tsv.gz") -> Path:
    """As the release is written: by a CSV writer with tabs, which quotes only where it must."""
    text = io.StringIO()
    writer = csv.DictWriter(text, WIT_HEADER, restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    (folder / name).write_bytes(gzip.compress(text.getvalue().encode()))
    return folder / name


def laion_dump(folder: Path, name: str = "part-00000.parquet", **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def redcaps_dump(folder: Path, annotations: Any, name: str = "itookapicture_2016.json", bare: bool = False) -> Path:
    whole = annotations if bare else {"info": {"version": "1.0", "url": "x"}, "annotations": annotations}
    (folder / name).write_text(json.dumps(whole), encoding="utf-8")
    return folder / name


def annotation(number: int, caption: str | None = "a dog on a beach") -> dict[str, Any]:
    return {
        "image_id": f"id{number}",
        "author": "someone",
        "url": f"https://i.redd.it/{number}.jpg",
        "raw_caption": "A dog on a beach [OC]",
        "caption": caption,
        "subreddit": "itookapicture",
        "score": 12,
        "created_utc": 1451606400,
        "permalink": "/r/x",
    }


def raw(**changes: object) -> dict[str, object]:
    """A RAW record that can be downloaded, with changes."""
    row: dict[str, object] = {
        "file": "f.tsv", "line": 0, "url": "http://a.test/1.jpg", "native_id": "",
        "caption_raw": [("caption", "a dog")], "reason": "ok",
    }  # fmt: skip
    return {**row, **changes}
