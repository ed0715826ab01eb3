"""Writing one file of an export: a tar or a parquet, its counts, and last the account that makes it complete."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine import Work
from pipelines.exports.plan import Export, Piece
from pipelines.exports.uses import Account, Rows, Use, open_manifest, read_uses
from pipelines.store.fingerprint import KEY
from pipelines.store.root import Root
from pipelines.store.schema import EXPORT
from pipelines.store.shards import HEADER, add_member

_RESULT = "headwater.result"
_FEATURES = {
    "image": {"_type": "Image"},
    "caption": {"dtype": "string", "_type": "Value"},
    "uid": {"dtype": "string", "_type": "Value"},
    "source": {"dtype": "string", "_type": "Value"},
}
# What Hugging Face's `datasets` reads: the features are in the metadata, as it writes them itself.
_HF = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.string()),
        ("uid", pa.string()),
        ("source", pa.string()),
    ],
    {"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


def make_work(url: str, export: Export) -> Work:
    """The function that writes one file of an export; the manifest is opened once a worker."""
    root = Root(url)
    rows = Rows(open_manifest(root, export.mixture))

    def work(piece: Piece) -> dict[str, Any]:
        return write_piece(root, export, piece, rows.of(piece))

    return work


def finished(root: Root, export: Export, piece: Piece) -> dict[str, Any] | None:
    """The result of a file that is there and whole; None where it is to be written.

    One that lacks pictures is not taken for whole: they may be there by now.
    """
    metadata = root.parquet_metadata(*export.accounts, f"{piece.name}.parquet")
    if metadata.get(KEY) != export.mark or not root.exists(*export.folder, *piece.path):
        return None
    result: dict[str, Any] = json.loads(metadata[_RESULT])
    return None if result["lost"] else result


def write_piece(root: Root, export: Export, piece: Piece, table: pa.Table) -> dict[str, Any]:
    """Publish one file of an export from its rows of the manifest; returns its counts."""
    account = Account()
    # An earlier account goes first: it does not fit the new file.
    root.remove(*export.accounts, f"{piece.name}.parquet")
    with root.writing(*export.folder, *piece.path, scratch=export.scratch) as file:
        _WRITERS[export.form](file, read_uses(root, table, account))
    there = Counter(row["source"] for row in account.rows if row["reason"] == "ok")
    result = {
        "rows": len(account.rows),
        "counts": dict(Counter(row["status"] for row in account.rows)),
        "there": dict(sorted(there.items())),
        "lost": {shard: asdict(lost) for shard, lost in sorted(account.lost.items())},
    }
    if export.form == "tars":
        stats = {"count": len(account.rows), "successes": there.total(), "reasons": _reasons(account)}
        publish(root, export, json.dumps(stats, indent=2, sort_keys=True), f"{piece.name}_stats.json")
    own = {key.decode(): value.decode() for key, value in EXPORT.arrow.metadata.items()}
    marks = {**own, KEY: export.mark, _RESULT: json.dumps(result)}
    root.write_table(account.table(), *export.accounts, f"{piece.name}.parquet", metadata=marks)
    return result


def publish(root: Root, export: Export, text: str, *parts: str) -> None:
    """Publish a small file in an export's folder, with nothing else appearing there even for a moment."""
    with root.writing(*export.folder, *parts, scratch=export.scratch) as file:
        file.write(text.rstrip("\n").encode() + b"\n")


def _reasons(account: Account) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in account.rows).items()))


def _write_tar(file: IO[bytes], blocks: Iterable[list[Use]]) -> None:
    """A tar in img2dataset's layout: picture, record and caption of a sample side by side."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for block in blocks:
            for use in block:
                if not use.is_there:
                    continue
                key = use.row["key"]
                use.row["offset"] = tar.offset + HEADER
                add_member(tar, f"{key}.{use.extension}", use.image)
                add_member(tar, f"{key}.json", json.dumps(_record(use), indent=4).encode())
                add_member(tar, f"{key}.txt", use.caption.encode())


def _record(use: Use) -> dict[str, Any]:
    return {
        **{name: use.row[name] for name in ("uid", "key", "source", "shard", "repeat")},
        "caption": use.caption,
        "status": "success",
    }


def _write_parquet(file: IO[bytes], blocks: Iterable[list[Use]]) -> None:
    """A parquet file for Hugging Face's `datasets`, a row group a block."""
    # Neither dictionaries nor smallest and largest values of pictures: they would hold the pictures themselves.
    names = ["source"]
    with pq.ParquetWriter(file, _HF, use_dictionary=names, write_statistics=names) as writer:
        for block in blocks:
            uses = [use for use in block if use.is_there]
            if not uses:
                continue
            rows = {
                "image": [{"bytes": u.image, "path": f"{u.row['key']}.{u.extension}"} for u in uses],
                "caption": [u.caption for u in uses],
                "uid": [u.row["uid"] for u in uses],
                "source": [u.row["source"] for u in uses],
            }
            writer.write_table(pa.table(rows, _HF), row_group_size=len(uses))


_WRITERS = {"tars": _write_tar, "hf": _write_parquet}
