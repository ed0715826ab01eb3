"""What the scorer's matches rest on: ten pairs of a demo, drawn by `headwater attribute`."""

from __future__ import annotations

from pathlib import Path

from pipelines.attribute import AttributeConfig, find_settings
from pipelines.store import catalog
from pipelines.store.root import Root
from trainer.model import load_model

SCORER = str(Path(__file__).parent / "scorer")
BETA = 3.0  # by `python -m demo.map_tests`
CHOICE = (
    "Nobody chose them: they are each source's first picture of several things in hash order, and the two best and "
    "the two worst matches of all."
)


def job(root: Root, seed: int) -> AttributeConfig:
    """What draws ten of the root's pairs into `<root>/attributions/`."""
    uids = choose_pairs(root, seed)
    return AttributeConfig(root=root.url, model=SCORER, uids=uids, limit=len(uids), beta=BETA)


def drawn(root: Root, seed: int) -> str:
    """Fingerprint of what `job` draws."""
    return find_settings(job(root, seed), load_model(SCORER)).fingerprint


def choose_pairs(root: Root, seed: int) -> list[str]:
    """Uids of ten English pairs that are no copies.

    Of each source the first in hash order of the pictures larger than 256 px, which are those of several drawings;
    and of all pairs the two that match best and the two that match least.
    """
    pairs = "FROM samples WHERE status = 'success' AND language = 'en' AND kind IS NULL"
    with catalog.connect(root) as con:
        large = con.execute(
            f"SELECT uid {pairs} AND greatest(original_width, original_height) > 256 QUALIFY row_number() OVER "
            "(PARTITION BY source ORDER BY sample_order(uid_lo, ?::UBIGINT), uid) = 1", [seed]
        ).fetchall()  # fmt: skip
        ends = [
            con.execute(f"SELECT uid {pairs} ORDER BY clip_score {way}, uid LIMIT 2").fetchall()
            for way in ("DESC", "ASC")
        ]
    return sorted({uid for (uid,) in [*large, *ends[0], *ends[1]]})
