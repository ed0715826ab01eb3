"""The schema as a page of Markdown: `python -m pipelines.store.describe > docs/schema.md`."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.store.schema import MANIFEST, METADATA, RAW, REASONS, RETRY, SCHEMA_VERSION, SHARD, VERDICTS, features

_INTRO = f"""# What the published files hold

Schema version {SCHEMA_VERSION}. `python -m pipelines.store.describe` writes this page from
`pipelines/store/schema.py`, the only place where columns and reasons are defined.

## Reasons

Every row has one. `error_message` is img2dataset's text where it has one for the case. After a redirect,
`private_address`, `robots` and `bad_url` have the status failed_to_download, because a server was asked.
"""


def page() -> str:
    """The whole page: reasons, then the columns of each kind of file."""
    rows = [
        (f"`{name}`", status.value, text or "", meaning) for name, (status, text, meaning) in sorted(REASONS.items())
    ]
    parts = [_INTRO, _table(("reason", "status", "`error_message`", "meaning"), rows)]
    for schema in (RAW, METADATA, RETRY, SHARD, features(512), VERDICTS, MANIFEST):
        columns = [(f"`{c.name}`", f"`{c.type}`", c.meaning) for c in schema.columns]
        parts += [f"\n## {schema.name}\n", _table(("column", "type", "meaning"), columns)]
    return "\n".join(parts)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    print(page())
