"""What becomes of records that others wrote: identity, captions, scores, and the reasons behind error messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import ingest
from pipelines.adopted.rows import listed_failure, reason_of, row_of
from pipelines.identity import uid_of
from pipelines.store.reasons import REASONS
from pipelines.store.root import Root
from pipelines.store.schema import SHARD
from tests.pipelines.chain import cc12m_dump

UID = "0123456789abcdef0123456789abcdef"
UUID = "b3d1f9d6-1f8a-4f0e-9a51-3f2f0f1f2a3b"
URL = "http://pictures.test/1.jpg"


def row(record: dict[str, Any] | None = None, text: str | None = None, **place: Any) -> dict[str, Any]:
    where: dict[str, Any] = {"source": "mine", "file": "a/0.tar", "line": 3, "key": "000000003", **place}
    return row_of(**where, record=record or {}, text=text)


def test_a_row_has_the_shards_columns() -> None:
    assert set(row()) == set(SHARD.names)
    assert pa.Table.from_pylist([row({"url": URL, "caption": "x"})], SHARD.arrow).num_rows == 1


@pytest.mark.parametrize(
    ("record", "key", "wanted"),
    [
        ({"uid": UID, "url": URL}, "1", UID),
        ({"uid": UID.upper()}, "1", UID),
        ({"uid": "17", "url": URL, "caption": "x"}, "1", uid_of("mine", "", URL, ["x"])),
        ({"url": URL, "caption": None}, "1", uid_of("mine", "", URL, [""])),
        ({"url": URL, "caption": "x", "id": 7.0}, "1", uid_of("mine", "7", URL, ["x"])),
        ({}, f"{UID}-2", UID),
        ({}, UID, uid_of("mine", UID, "", ["text"])),
        ({}, UUID, uid_of("mine", UUID, "", ["text"])),
        ({}, "000000", uid_of("mine", "a/0.tar/000000", "", ["text"])),
        ({"caption": "x"}, "000000", uid_of("mine", "a/0.tar/000000", "", ["x"])),
    ],
)  # fmt: skip
def test_uids(record: dict[str, Any], key: str, wanted: str) -> None:
    assert row(record, "text", key=key)["uid"] == wanted
    assert row(record, "text", key=key)["uid_lo"] == int(wanted[16:], 16)


def test_a_known_address_gives_the_uid_of_an_ingest_of_the_same_dump(tmp_path: Path) -> None:
    root = Root(str(tmp_path / "root"))
    ingest.run(ingest.IngestConfig(root=root.url, source="cc12m", metadata=str(cc12m_dump(tmp_path, 3))))
    laion = {"SAMPLE_ID": [1.0, None], "URL": [URL, URL], "TEXT": ["x", ""], "NSFW": ["UNLIKELY", "NSFW"]}
    (tmp_path / "laion").mkdir()
    pq.write_table(pa.table(laion), tmp_path / "laion" / "part.parquet")
    ingest.run(ingest.IngestConfig(root=root.url, source="laion", metadata=str(tmp_path / "laion")))
    for shard in root.shards("metadata"):
        for found in root.read_table("metadata", shard.source, f"{shard.number}.parquet").to_pylist():
            text = dict(found["caption_raw"])["TEXT" if shard.source == "laion" else "caption"]
            # as img2dataset writes it, with `save_additional_columns`
            record = {"url": found["url"], "caption": text}
            if shard.source == "laion":
                record["SAMPLE_ID"] = float(found["native_id"]) if found["native_id"] else float("nan")
            again = row(record, source=shard.source)
            assert again["uid"] == found["uid"]
            assert again["caption_raw"] == dict(found["caption_raw"])


def test_redcaps_and_wit_need_all_their_caption_fields() -> None:
    record = {"url": URL, "image_id": "t1", "caption": "c", "raw_caption": "r", "subreddit": "s"}
    assert row(record, source="redcaps")["uid"] == uid_of("redcaps", "t1", URL, ["r", "c", "s"])
    assert row(record, source="redcaps")["caption"] == "c"
    assert row({"url": URL, "caption": "c"}, source="redcaps")["uid"] == uid_of("redcaps", "", URL, ["c"])
    wit = {
        "url": URL,
        "caption": "ref",
        "caption_attribution_description": None,
        "caption_alt_text_description": "alt",
    }
    assert row(wit, source="wit")["uid"] == uid_of("wit", "", URL, ["ref", "", "alt"])


@pytest.mark.parametrize(
    ("record", "text", "captions", "recipe"),
    [
        ({"caption": "x"}, "x", ["x"], "caption"),
        ({"caption": "x"}, "a better one", ["a better one"], "txt"),
        ({}, "x\n", ["x\n"], "txt"),
        ({"text": "x"}, None, ["x"], "text"),
        ({"caption": None, "text": "x"}, "", ["x"], "text"),
        ({"texts": [["alt", "one"], ["title", "two"]]}, None, ["one", "two"], "texts"),
        ({"texts": ["one", " ", "two"]}, None, ["one", "two"], "texts"),
        ({"caption": "one", "captions": ["one", "two"], "caption_recipe": "both"}, "one", ["one", "two"], "both"),
        ({"caption": float("nan")}, " ", [], "caption"),
        ({"caption": "a\ud800b"}, None, ["a\\ud800b"], "caption"),
    ],
)
def test_captions(record: dict[str, Any], text: str | None, captions: list[str], recipe: str) -> None:
    found = row(record, text)
    assert (found["captions"], found["caption_recipe"]) == (captions, recipe)
    assert found["caption"] == (captions[0] if captions else None)


def test_what_was_declared_is_kept() -> None:
    record = {
        "NSFW": "UNLIKELY", "LICENSE": "?", "similarity": 0.3, "punsafe": float("nan"), "width": 3.0, "HEIGHT": 40,
        "original_width": 400, "original_height": -1, "sha256": "AB" * 32, "exif": "{}",
        "face_bboxes": [[0, 0.5, 1, 1]], "scores_declared": [("aesthetic", 5.5)],
    }  # fmt: skip
    found = row(record)
    assert (found["nsfw_declared"], found["license"], found["sha256"], found["exif"]) == (
        "UNLIKELY", "?", "ab" * 32, "{}",
    )  # fmt: skip
    assert found["scores_declared"] == {"similarity": 0.3, "aesthetic": 5.5}
    assert found["face_bboxes"] == [[0.0, 0.5, 1.0, 1.0]]
    assert (found["original_width"], found["original_height"]) == (400, None)


@pytest.mark.parametrize(
    "record",
    [
        {"caption_raw": ["a"], "scores_declared": "x", "face_bboxes": [["left"]], "texts": [[1, 2], None, [[]]]},
        {"caption": ["a", "b"], "url": {"a": 1}, "uid": [1], "native_id": b"\xff", "original_width": "wide"},
        {"caption_raw": {"a": None}, "captions": "x", "sha256": 5, "exif": {"a": 1}, "similarity": float("inf")},
        {"caption_raw": {"\ud800": "\udfff"}, "\ud800": 0.5, "scores_declared": {"\ud800": 0.5}, "key": "\ud800"},
        {"face_bboxes": [[10**400]], "original_width": 10**400, "original_height": -(10**400), "url": 10**400},
    ],
)
def test_odd_records_are_rows_all_the_same(record: dict[str, Any]) -> None:
    assert pa.Table.from_pylist([row(record)], SHARD.arrow).num_rows == 1


# What img2dataset 1.47 was seen to write, or would pass on from urllib.
MESSAGES = {
    "HTTP Error 404: Not Found": "http_404",
    "HTTP Error 404: NOT FOUND": "http_404",
    "HTTP Error 410: Gone": "http_410",
    "HTTP Error 429: Too Many Requests": "http_429",
    "HTTP Error 403: Forbidden": "http_4xx",
    "HTTP Error 503: Service Temporarily Unavailable": "http_5xx",
    "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.": "redirects",
    "timed out": "timeout",
    "The read operation timed out": "timeout",
    "<urlopen error timed out>": "timeout",
    "<urlopen error _ssl.c:989: The handshake operation timed out>": "timeout",
    "<urlopen error [Errno 110] Connection timed out>": "timeout",
    "<urlopen error [Errno -2] Name or service not known>": "dns",
    "<urlopen error [Errno -3] Temporary failure in name resolution>": "dns",
    "<urlopen error [Errno -5] No address associated with hostname>": "dns",
    "encoding with 'idna' codec failed (UnicodeError: label empty or too long)": "dns",
    "<urlopen error [Errno 111] Connection refused>": "connection",
    "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>": "connection",
    "Remote end closed connection without response": "connection",
    "IncompleteRead(1000 bytes read, 2000 more expected)": "connection",
    "unknown url type: 'data'": "bad_url",
    "URL can't contain control characters. '/a b.jpg' (found at least ' ')": "bad_url",
    "nonnumeric port: 'x'": "bad_url",
    "Use of image disallowed by X-Robots-Tag directive": "opt_out",
    "hash mismatch": "hash_mismatch",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_of_failed_downloads(message: str) -> None:
    assert reason_of("failed_to_download", message) == MESSAGES[message]


def test_messages_of_pictures_and_of_our_own_shards() -> None:
    assert reason_of("failed_to_resize", "Image decoding error") == "decode"
    assert reason_of("failed_to_resize", "image too small") == "too_small"
    assert reason_of("failed_to_resize", "image area too large") == "too_many_pixels"
    assert reason_of("failed_to_resize", "aspect ratio too large") == "aspect_ratio"
    assert reason_of("failed_to_resize", "OpenCV(4.9) error: (-215) !ssize.empty()") == "decode"
    assert reason_of("failed_to_download", None) == "connection"
    for reason, (status, literal, _) in REASONS.items():
        if literal:
            assert reason_of(status, literal) == reason


def test_a_listed_failure_keeps_its_status_and_message() -> None:
    assert listed_failure({"status": "success", "error_message": None}) is None
    assert listed_failure({"caption": "a parquet of something else"}) is None
    assert listed_failure({"status": "failed_to_download", "error_message": "unknown url type: 'data'"}) == (
        "failed_to_download", "bad_url", "unknown url type: 'data'",
    )  # fmt: skip
    own = {"status": "skipped", "reason": "nsfw_declared", "error_message": "declared NSFW"}
    assert listed_failure(own) == ("skipped", "nsfw_declared", "declared NSFW")
