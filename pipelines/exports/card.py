"""The card of an export for Hugging Face: what is in it, from where, and under which licences."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import yaml

from filters.errors import ShardError
from pipelines.exports.plan import Contents, Export
from pipelines.exports.write import publish
from pipelines.store.presets import literal
from pipelines.store.root import Root

CARD = "README.md"
# source, licence as the source declares it, rows, samples
Licence = tuple[str, str, int, int]


def write_card(root: Root, export: Export, there: Contents, lost: int) -> None:
    """Write the card, which completes the folder; `lost` rows could not be read."""
    lock = root.read_json("mixes", export.mixture, "mix.lock.json")
    counts = licences(root, export.mixture, there)
    head = yaml.safe_dump({"license": "other", "configs": configs(export, sorted(there.uses))}, sort_keys=False)
    publish(root, export, f"---\n{head}---\n\n" + card(export, counts, lock, lost), CARD)


def configs(export: Export, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Which files belong together: all, and where they are kept apart, those of each source."""
    if export.layout == "mixed":
        return [_config("default", "data/*.parquet")]
    return [_config("default", "data/*/*.parquet"), *(_config(name, f"data/{name}/*.parquet") for name in sources)]


def _config(name: str, files: str) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": "train", "path": files}]}


def card(export: Export, counts: Sequence[Licence], lock: Mapping[str, Any], lost: int) -> str:
    """The card's text in Markdown."""
    rows = sum(row[2] for row in counts)
    once = "each sample once" if export.layout == "by_source" else "in the order of its manifest"
    lines = [
        f"# {export.mixture}",
        "",
        f"A mixture of {rows:,} image–text pairs built by Headwater, {once}: columns `image`, `caption`, `uid` and "
        f"`source`. Digest of its rows: `{lock.get('digest', 'unknown')}`.",
        "",
        f"Rows whose picture could not be read, and that are not here: {lost:,}.",
        "",
        "The pictures remain under the licences of their sources, as those declare them:",
        "",
        "| source | licence | rows of the mixture | samples |",
        "|---|---|---|---|",
        *(f"| {source} | {licence} | {uses:,} | {samples:,} |" for source, licence, uses, samples in counts),
    ]
    return "\n".join(lines)


def licences(root: Root, mixture: str, there: Contents) -> list[Licence]:
    """Rows and samples of a mixture by source and licence, from its manifest and the shards that it names.

    One pass over three columns of each; what does not fit in memory goes to a temporary file.
    """
    shards = [("shards", source, f"{number}.parquet") for source, number in sorted(there.shards)]
    # One that is gone or damaged has rows of unknown licence.
    files = [root.address(*path) for path in shards if root.parquet_metadata(*path)]
    known = f"(SELECT * FROM read_parquet([{', '.join(map(literal, files))}]) WHERE reason = 'ok')"
    none = "(SELECT NULL AS uid, NULL AS source, NULL AS shard, NULL AS license)"
    query = f"""SELECT m.source, coalesce(s.license, 'not declared') AS licence, count(*),
            count(*) FILTER (m.repeat = 0)
        FROM read_parquet({literal(root.address("mixes", mixture, "manifest.parquet"))}) m
        LEFT JOIN {known if files else none} s ON s.uid = m.uid AND s.source = m.source AND s.shard = m.shard
        GROUP BY ALL ORDER BY ALL"""
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(config={"temp_directory": scratch}) as con:
        con.execute("SET memory_limit = '2GB'")
        root.lend(con)
        try:
            return [(str(a), str(b), int(c), int(d)) for a, b, c, d in con.execute(query).fetchall()]
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise ShardError(f"mixture {mixture}: licences cannot be counted ({reason})") from error
