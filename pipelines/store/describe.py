"""The schema as a page of Markdown: `python -m pipelines.store.describe > docs/schema.md`."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.store.reasons import REASONS
from pipelines.store.schema import (
    EXPORT,
    MANIFEST,
    METADATA,
    RAW,
    REMOVALS,
    RETRY,
    SCHEMA_VERSION,
    SHARD,
    SIGNALS,
    eval_features,
    features,
    verdicts,
)

_INTRO = f"""# What the published files hold

Schema version {SCHEMA_VERSION}. `python -m pipelines.store.describe` writes this page from
`pipelines/store/schema.py`, the only place where columns and reasons are defined.

## Reasons

Every row has one. `error_message` is img2dataset's text where it has one for the case. After a redirect,
`private_address`, `robots` and `bad_url` have the status failed_to_download, because a server was asked.
"""

_CATALOG = """
## The catalog

Embeddings have as many numbers as their model gives, 512 above; NAME stands for an evaluation set.

View `samples` of `catalog.duckdb` has the columns of shard for the latest attempt of each uid, those of signals and
verdicts, and the scores: each model's in a column of its own (see [scores](score.md)), the chosen one's as
`clip_score` too. A number that is not finite is null there. `attempts` has all attempts. `entries` (`entry`, `text`,
`matches`) lists the metadata entries and how many samples' captions hold each; `presets` (`preset`, `call`, `lacks`,
`meaning`, `source`) the published filters, see [filters](filters.md). The others are `sources`, `shards`, `runs`,
`mixtures`, `mixture_samples`, `removals` (see [takedown](takedown.md)); `columns` (`table`, `column`, `type`,
`meaning`) describes all of them, see [sql](sql.md)."""


def page() -> str:
    """The whole page: reasons, then the columns of each kind of file."""
    rows = [
        (f"`{name}`", status.value, text or "", meaning) for name, (status, text, meaning) in sorted(REASONS.items())
    ]
    parts = [_INTRO, _table(("reason", "status", "`error_message`", "meaning"), rows)]
    sidecars = (features(512), eval_features(512), SIGNALS, verdicts(["NAME"]))
    for schema in (RAW, METADATA, RETRY, SHARD, *sidecars, MANIFEST, EXPORT, REMOVALS):
        columns = [(f"`{c.name}`", f"`{c.type}`", c.meaning) for c in schema.columns]
        parts += [f"\n## {schema.name}\n", _table(("column", "type", "meaning"), columns)]
    parts.append(_CATALOG)
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(page())
