"""Stored pictures that cannot be decoded: compared by their hashes alone, counted, named, and looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from filters.errors import BudgetExceeded
from pipelines import dedupe
from pipelines.dedupes.pairs import DamagedError
from pipelines.store.root import Root
from tests.filters.drawings import clock, flag, jpeg, near_copy, smiley
from tests.pipelines.pictured import Given, add_shard, uid_of
from tests.pipelines.test_dedupe import files_of, rows_of, settings


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """`damaged0` is like `copy`, has the bytes of `same`; `damaged1` is like `other`. Both are held out too."""
    root = Root(str(tmp_path / "root"))
    add_shard(root, "photos", 0, [Given("damaged0", jpeg(clock(2))), Given("damaged1", jpeg(flag(1)))])
    add_shard(root, "web", 0, [Given("same", jpeg(clock(2))), Given("copy", near_copy(clock(2), 0.5, 0, 85))])
    add_shard(root, "web", 1, [Given("other", near_copy(flag(1), 0.5, 0, 85)), Given("smiley", jpeg(smiley(1)))])
    folder = root.local("eval", "held")
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(jpeg(clock(2)))
    (folder / "1.jpg").write_bytes(near_copy(flag(1), 0.6, 0, 80))
    return root


def damage(root: Root, *rows: int) -> None:
    """Overwrite the first bytes of stored pictures of shard photos/00000."""
    offsets = root.read_table("shards", "photos", "00000.parquet")["offset"].to_pylist()
    with root.local("shards", "photos", "00000.tar").open("r+b") as tar:
        for row in rows:
            tar.seek(offsets[row])
            tar.write(b"damaged " * 20)


def run(root: Root, **fields: Any) -> dict[str, Any]:
    return dedupe.run(settings(root, tasks="eval", **fields))


def test_it_keeps_its_hashes_and_takes_part_in_no_near_search(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(root)
    assert (whole["counts"], whole["unreadable"]) == ({"exact_bytes": 1, "near": 2, "unique": 3}, {})
    root.remove("verdicts", whole["verdicts"], "dedupe.json")
    capsys.readouterr()
    damage(root, 0, 1)
    root.local("looks").rename(root.local("before"))
    found = run(root)
    # Its source comes first, but a picture that can be decoded survives in its place.
    assert found["counts"] == {"exact_bytes": 1, "near": 1, "unique": 4}
    assert found["eval_overlaps"]["held"] == {"photos": {"exact_bytes": 1}, "web": {"exact_bytes": 1, "near": 2}}
    rows = rows_of(root, found["verdicts"])
    kinds = {n: (rows[uid_of(n)]["kind"], rows[uid_of(n)]["duplicate_of"]) for n in ("damaged0", "copy", "other")}
    same = uid_of("same")
    assert kinds == {"damaged0": ("exact_bytes", same), "copy": ("near", same), "other": (None, None)}
    assert rows[uid_of("damaged1")]["group"] is None
    where = f"photos/00000: uid {uid_of('damaged0')}: not a picture of a known format"
    assert found["unreadable"]["pictures"] == len(found["unreadable"]["first"]) == 2
    assert found["unreadable"]["first"][0].startswith(where)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert said.startswith("dedupe: 2 of 6 stored pictures are damaged and compared by their hashes alone; ")
    assert said.count("photos/00000: uid") == 2


def test_it_is_looked_at_again_by_each_run(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    tar = root.local("shards", "photos", "00000.tar")
    whole = tar.read_bytes()
    damage(root, 1)
    first = run(root)
    files = files_of(root, first["verdicts"])
    capsys.readouterr()
    second = run(root)
    assert "dedupe: 1 shards to do, 2 done before" in capsys.readouterr().err
    assert (second["shards_done"], second["unreadable"]) == (0, first["unreadable"])
    assert files_of(root, first["verdicts"]) == files
    # The tar is mended, its parquet as it was.
    tar.write_bytes(whole)
    mended = run(root)
    assert (mended["counts"], mended["unreadable"]) == ({"exact_bytes": 1, "near": 2, "unique": 3}, {})
    assert run(root)["shards_skipped"] == 3
    assert "dedupe: verdicts are up to date" in capsys.readouterr().err


def test_damage_after_it_was_looked_at_gives_what_a_fresh_run_gives(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root)
    for path in [*root.local("pairs").rglob("*.parquet"), *root.local("verdicts").rglob("dedupe.json")]:
        path.unlink()
    damage(root, 0, 1)
    late = run(root)
    late_files = files_of(root, late["verdicts"])
    for folder in ("looks", "pairs", "verdicts"):
        root.local(folder).rename(root.local(f"{folder}.before"))
    fresh = run(root)
    assert late["unreadable"] == fresh["unreadable"] != {}
    assert (late["counts"], late["eval_overlaps"]) == (fresh["counts"], fresh["eval_overlaps"])
    assert late_files == files_of(root, fresh["verdicts"])
    # A disk that reads it now and then is no endless loop.
    root.local("pairs").rename(root.local("pairs.again"))

    def failing(*_: object) -> tuple[None, list[tuple[str, str]]]:
        return None, [("web", "00000")]

    monkeypatch.setattr("pipelines.dedupes.pairs._thumbs", failing)
    with pytest.raises(DamagedError, match="web/00000: stored pictures have been damaged meanwhile; run again"):
        run(root)


def test_too_many_are_more_than_the_budget(root: Root) -> None:
    damage(root, 0, 1)
    assert run(root, max_failed_fraction=0.34)["unreadable"]["pictures"] == 2
    with pytest.raises(BudgetExceeded, match=r"2 of 6 stored pictures are damaged, more than .*=0\.3; first: photos"):
        run(root, max_failed_fraction=0.3)
