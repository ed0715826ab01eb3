"""The six metadata dumps of the demo web, each in its source's own raw format.

Columns that the pipeline does not read (dates, cameras, authors, page addresses) are filled too, with values drawn
from the record's own seed, so that a repeated record is repeated to the letter.
"""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from demo.pictures import MIME
from demo.web_record import Record, to_records
from demo.web_urls import token

WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description", "mime_type",
    "original_height", "original_width", "is_main_image", "attribution_passes_lang_id", "page_changed_recently",
    "context_page_description", "context_section_description",
)  # fmt: skip
_LICENCE_URL = {
    "Attribution License": "http://creativecommons.org/licenses/by/2.0/",
    "Attribution-ShareAlike License": "http://creativecommons.org/licenses/by-sa/2.0/",
    "Attribution-NonCommercial License": "http://creativecommons.org/licenses/by-nc/2.0/",
}
_CAMERAS = ("Nikon D90", "Canon EOS 350D", "Panasonic DMC-TZ5", "SONY DSLR-A200", "Apple iPhone 3GS", "")


def write_dumps(plan: pa.Table, folder: Path) -> list[Path]:
    """Write every dump of the plan under `folder/<source>/` and return the files, sorted. Same plan, same bytes."""
    files: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in to_records(plan):
        files[record.source, record.file].append(record)
    paths = []
    for source, name in sorted(files):
        path = folder / source / "annotations" / name if source == "redcaps" else folder / source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        records = sorted(files[source, name], key=lambda r: r.line)
        path.write_bytes(_WRITERS[source](records))
        paths.append(path)
    return paths


def _incidental(record: Record) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([record.seed, 2]))


def _broken(record: Record, row: list[str]) -> list[str]:
    """`row` as it stands in the dump: with fields missing or too many if that is planted."""
    if record.plant != "bad_row":
        return row
    if record.param == "fields_extra":
        return [*row, "2", ""]
    return row[2 * len(row) // 3 :] if len(row) > 2 else row[1:]


def _tsv(rows: list[list[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def _pairs(records: list[Record]) -> bytes:
    """CC12M and Shutterstock: address and caption, no header, no quoting."""
    return _tsv([_broken(r, [r.url, r.caption_fields["caption"] or ""]) for r in records])


def _yfcc(records: list[Record]) -> bytes:
    """The 25 columns of `yfcc100m_dataset`, no header, texts URL-encoded."""
    return _tsv([_broken(record, _yfcc_row(record)) for record in records])


def _yfcc_row(record: Record) -> list[str]:
    rng = _incidental(record)
    taken = datetime.datetime(2005, 1, 1) + datetime.timedelta(seconds=int(rng.integers(280_000_000)))
    uploaded = int((taken - datetime.datetime(1970, 1, 1)).total_seconds()) + int(rng.integers(10_000_000))
    user = f"{rng.integers(10_000_000, 99_999_999)}@N0{rng.integers(10)}"
    has_place = rng.random() < 0.4
    place = [f"{rng.uniform(-180, 180):.6f}", f"{rng.uniform(-90, 90):.6f}", str(rng.integers(10, 17))]
    path = urlsplit(record.url).path.split("/")
    secret, _, extension = path[-1].partition("_")[2].partition(".")
    fields = record.caption_fields
    return [
        str(rng.integers(100_000_000)),
        record.native_id,
        token(rng, 32, "0123456789abcdef"),
        user,
        quote_plus(f"user {token(rng, 6)}"),
        f"{taken:%Y-%m-%d %H:%M:%S}.0",
        str(uploaded),
        quote_plus(_CAMERAS[int(rng.integers(len(_CAMERAS)))]),
        fields["title"] or "",
        fields["description"] or "",
        fields["usertags"] or "",
        "",
        *(place if has_place else ["", "", ""]),
        f"http://www.flickr.com/photos/{user}/{record.native_id}/",
        record.url,
        record.license,
        _LICENCE_URL[record.license],
        path[1] if len(path) > 2 else "0",
        str(rng.integers(1, 10)),
        secret,
        token(rng, 10, "0123456789abcdef"),
        extension or "jpg",
        "1" if record.plant == "video" else "0",
    ]


def _laion(records: list[Record]) -> bytes:
    """Parquet with the columns of LAION-400M."""
    similarity = [0.3 + float(_incidental(r).beta(1.2, 8)) * 0.4 for r in records]
    table = pa.table(
        {
            "SAMPLE_ID": pa.array([int(r.native_id) for r in records], pa.int64()),
            "URL": pa.array([r.url for r in records], pa.string()),
            "TEXT": pa.array([r.caption_fields["TEXT"] for r in records], pa.string()),
            "HEIGHT": pa.array([r.height for r in records], pa.int64()),
            "WIDTH": pa.array([r.width for r in records], pa.int64()),
            "LICENSE": pa.array([r.license for r in records], pa.string()),
            "NSFW": pa.array([r.nsfw_declared for r in records], pa.string()),
            "similarity": pa.array(similarity, pa.float64()),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def _wit(records: list[Record]) -> bytes:
    """Gzipped TSV with a header, written as by a CSV writer: a field with a quote or a line end stands in quotes."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(WIT_COLUMNS)
    writer.writerows(_broken(record, _wit_row(record)) for record in records)
    return gzip.compress(text.getvalue().encode(), compresslevel=6, mtime=0)


def _wit_row(record: Record) -> list[str]:
    rng = _incidental(record)
    language = record.language_declared or "en"
    title = record.true_name.capitalize()
    section = ("History", "Design", "Usage", "See also", "")[int(rng.integers(5))]
    context = f"{title} is a symbol found in many character sets."
    if rng.random() < 0.05:
        context = f'{context}\nIn print it is often called the "{record.true_name}".'
    values: dict[str, str | None] = {
        "language": language,
        "page_url": f"https://{language}.wikipedia.org/wiki/{title.replace(' ', '_')}",
        "image_url": record.url,
        "page_title": title,
        "section_title": section,
        "hierarchical_section_title": f"{title} / {section}" if section else title,
        **record.caption_fields,
        "mime_type": MIME[record.format],
        "original_height": str(record.height),
        "original_width": str(record.width),
        "is_main_image": "true" if rng.random() < 0.3 else "false",
        "attribution_passes_lang_id": "true" if rng.random() < 0.8 else "false",
        "page_changed_recently": "true" if rng.random() < 0.9 else "false",
        "context_page_description": f"This article is about {record.true_name}.",
        "context_section_description": context,
    }
    return [values[column] or "" for column in WIT_COLUMNS]


def _redcaps(records: list[Record]) -> bytes:
    """JSON with `info` and `annotations`; the first year of crafts is a bare list, as shuffled copies are."""
    annotations = [_annotation(record) for record in records]
    year = records[0].file.removesuffix(".json").rpartition("_")[2]
    info = {
        "start_date": f"{year}-01-01",
        "end_date": f"{year}-12-31",
        "url": "https://redcaps.xyz",
        "version": "1.0",
    }
    is_bare = records[0].file == "crafts_2017.json"
    content: Any = annotations if is_bare else {"info": info, "annotations": annotations}
    return (json.dumps(content, indent=None if is_bare else 1) + "\n").encode()


def _annotation(record: Record) -> Any:
    if record.plant == "bad_row" and record.param == "fields_extra":
        return f'{{"image_id": "{record.native_id}", "url": "{record.url}'  # cut short, and stored as text
    rng = _incidental(record)
    subreddit, _, year = record.file.removesuffix(".json").rpartition("_")
    created = datetime.datetime(int(year), 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(
        seconds=int(rng.integers(31_000_000))
    )
    annotation = {
        "image_id": record.native_id,
        "author": token(rng, 9),
        "url": record.url,
        **record.caption_fields,
        "subreddit": subreddit,
        "score": int(rng.integers(2, 4000)),
        "created_utc": int(created.timestamp()),
        "permalink": f"/r/{subreddit}/comments/{record.native_id}/",
        "crosspost_parents": None,
    }
    if record.plant == "bad_row":
        del annotation["url"]
    return annotation


_WRITERS: dict[str, Callable[[list[Record]], bytes]] = {
    "yfcc": _yfcc,
    "laion": _laion,
    "cc12m": _pairs,
    "wit": _wit,
    "redcaps": _redcaps,
    "shutterstock": _pairs,
}
