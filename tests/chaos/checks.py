"""What must hold of a data root after a fault: no torn file, each row once, the bytes of the undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store import catalog
from pipelines.store.root import Root

# These hold times, or names drawn at random; the catalog is compared by what it answers.
_TIMED = ("speed.jsonl", "_stats.json", ".lock", ".duckdb")


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of each file that is the same in every run, by its path, and of the catalog's tables."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith(_TIMED))
    found = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    found = {name: digest for name, digest in found.items() if not name.startswith("runs/")}
    if (root / catalog.FILE).exists():
        with contextlib.closing(catalog.connect(Root(str(root)))) as con:
            for table in ("samples", "sources"):
                rows = con.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
                found[f"{catalog.FILE}:{table}"] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


def torn(root: Path) -> list[str]:
    """Visible parquet files and tars that cannot be read to their end, and tars without their parquet's rows."""
    found = []
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or path.suffix not in (".parquet", ".tar"):
            continue
        try:
            if path.suffix == ".tar":
                with tarfile.open(path) as tar:
                    for member in tar:
                        tar.extractfile(member).read()  # type: ignore[union-attr]
                # Of a tar that is cut in a header tarfile says nothing.
                if any(path.read_bytes()[-1024:]):
                    raise tarfile.ReadError("has no end")
            else:
                pq.read_table(path)
        except (OSError, pa.ArrowException, tarfile.TarError) as error:
            found.append(f"{path.relative_to(root)}: torn ({error})")
    return found


def accounts(root: Path) -> list[str]:
    """Rows of the metadata that the shards lack or have twice; nothing before the first download."""
    wanted, there = (_uids(root / name) for name in ("metadata", "shards"))
    twice = [uid for uid, count in (wanted + there).items() if max(wanted[uid], there[uid]) > 1 and count]
    lost = [uid for uid in wanted if there and uid not in there]
    return [f"{uid}: twice" for uid in twice] + [f"{uid}: not accounted for" for uid in lost]


def _uids(folder: Path) -> Counter[str]:
    files = [path for path in folder.rglob("*.parquet") if ".writing" not in path.parts]
    return Counter(uid for path in files for uid in pq.read_table(path, columns=["uid"])["uid"].to_pylist())


def differences(root: Path, truth: dict[str, str]) -> list[str]:
    """Everything by which a root is not the undisturbed one."""
    bad = [*torn(root), *accounts(root)]
    if not bad:
        ours = digests(root)
        bad += [f"{name}: lacking" for name in truth if name not in ours]
        bad += [f"{name}: too many" for name in ours if name not in truth]
        bad += [f"{name}: other bytes" for name in truth if name in ours and ours[name] != truth[name]]
    return bad
