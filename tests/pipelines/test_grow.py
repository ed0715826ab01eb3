"""A dump that grows: what is new or other is added, what is gone is withdrawn, nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from filters.errors import InputError
from pipelines import download, ingest
from pipelines.store.root import Root
from tests.pipelines.chain import cc12m_dump, picture_server
from tests.pipelines.test_download import settings


def lines(*numbers: int, word: str = "of") -> str:
    return "".join(f"http://pictures.test/{n}.png\ta picture {word} number {n}\n" for n in numbers)


def add(folder: Path, **changes: Any) -> dict[str, Any]:
    root, dump = str(folder / "root"), str(folder / "cc12m")
    config = ingest.IngestConfig(root=root, source="cc12m", metadata=dump, samples_per_shard=4, add=True)
    return ingest.run(config.model_copy(update=changes))


def files(root: Root) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.local().rglob("*") if path.is_file()}


def test_only_what_is_new_or_other_is_added(tmp_path: Path) -> None:
    dump = cc12m_dump(tmp_path, 10) / "cc12m.tsv"
    root = Root(str(tmp_path / "root"))
    assert add(tmp_path)["shards_done"] == 3
    first = files(root)
    assert add(tmp_path)["shards_skipped"] == 3
    dump.write_text(lines(*range(8)) + lines(8, word="with") + lines(10, 11), encoding="utf-8")
    # Rows 8 (its caption) and 9 are gone; the other 8, 10 and 11 are new.
    summary = add(tmp_path)
    assert {name: summary[name] for name in ("added", "changed", "withdrawn", "unchanged")} == {
        "added": 3, "changed": 0, "withdrawn": 2, "unchanged": 8,
    }  # fmt: skip
    assert (summary["rows_in"], summary["counts"]) == (5, {"ok": 3, "withdrawn": 2})
    after = files(root)
    assert {name: after[name] for name in first} == first
    added = root.names("retries", "cc12m", suffix=".parquet")
    assert added == ["00003.parquet", "00004.parquet"]
    assert add(tmp_path)["rows_in"] == 0 and files(root) == after
    # Back as it was: the rows of before return as further attempts, the ones of the change go.
    cc12m_dump(tmp_path, 10)
    summary = add(tmp_path)
    assert (summary["added"], summary["changed"], summary["withdrawn"]) == (0, 2, 3)
    attempts = [root.read_table("retries", "cc12m", name)["attempt"].to_pylist() for name in added]
    assert attempts == [[0, 0, 0, 1], [1]]
    with picture_server() as server:
        done = download.run(settings(root, server))
    assert done["counts"] == {"success": 10 + 3 + 2, "skipped": 2 + 3}


def test_a_plan_cut_short_is_made_again_and_half_a_dump_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = cc12m_dump(tmp_path, 10) / "cc12m.tsv"
    root = Root(str(tmp_path / "root"))
    add(tmp_path)
    before = files(root)
    dump.write_text(lines(*range(4)), encoding="utf-8")
    with pytest.raises(InputError, match=r"cc12m: 6 of 10 rows are no longer in the dump; is all of it there"):
        add(tmp_path)
    assert files(root) == before
    dump.write_text(lines(*range(22)), encoding="utf-8")
    write, written = Root.write_table, []

    def dies(self: Root, table: Any, *parts: str, **more: Any) -> None:
        written.append(parts)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, table, *parts, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Root, "write_table", dies)
        with pytest.raises(KeyboardInterrupt):
            add(tmp_path)
    assert root.names("retries", "cc12m", suffix=".parquet") == ["00004.parquet", "00005.parquet"]
    assert add(tmp_path)["added"] == 12
    assert root.names("retries", "cc12m", suffix=".parquet") == [f"0000{n}.parquet" for n in (3, 4, 5)]
