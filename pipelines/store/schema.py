"""Column names, types and meaning of every file Headwater publishes. No other module writes them down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from filters.errors import SchemaError

SCHEMA_VERSION = 3


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, Arrow type and meaning (with units)."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True, slots=True)
class Schema:
    """What a kind of file holds."""

    name: str
    columns: tuple[Column, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, with name and version in its metadata."""
        fields = [pa.field(c.name, c.type) for c in self.columns]
        return pa.schema(fields, {"headwater.schema": self.name, "headwater.schema_version": str(SCHEMA_VERSION)})

    @property
    def names(self) -> list[str]:
        """The column names in order."""
        return [c.name for c in self.columns]

    def conform(self, table: pa.Table) -> pa.Table:
        """`table` with exactly these columns in this order, cast to these types; SchemaError if it cannot be."""
        missing = [c.name for c in self.columns if c.name not in table.column_names]
        extra = [n for n in table.column_names if n not in self.names]
        if missing or extra:
            raise SchemaError(f"{self.name}: missing columns {missing}, unknown columns {extra}")
        try:
            return table.select(self.names).cast(self.arrow)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaError(f"{self.name}: {error}") from error


def _columns(*rows: tuple[str, pa.DataType, str]) -> tuple[Column, ...]:
    return tuple(Column(*row) for row in rows)


def _pick(columns: Iterable[Column], *names: str) -> tuple[Column, ...]:
    by_name = {c.name: c for c in columns}
    return tuple(by_name[n] for n in names)


STRING_MAP = pa.map_(pa.string(), pa.string())
SCORE_MAP = pa.map_(pa.string(), pa.float64())
BOXES = pa.list_(pa.list_(pa.float64()))

# What a source declares about a record; carried from the dump to the catalog as it is.
_DECLARED = (
    ("license", pa.string(), "licence that the source declares for the picture"),
    ("nsfw_declared", pa.string(), "the source's own NSFW tag"),
    ("language_declared", pa.string(), "the source's own language tag"),
    ("hash_declared", pa.string(), "the source's own hash of the picture's bytes: `sha256:` or `md5:` and hex"),
    ("scores_declared", SCORE_MAP, "the source's own numbers by name: similarity, aesthetic and the like"),
    ("face_bboxes", BOXES, "the source's boxes around faces: left, top, right, bottom, each 0 to 1"),
)

RAW = Schema(
    "raw",
    _columns(
        ("file", pa.string(), "name of the dump file"),
        ("line", pa.int64(), "number of the record in its file, from 0"),
        ("url", pa.string(), "address of the picture as the dump has it"),
        ("native_id", pa.string(), "the source's own identifier, or empty"),
        ("caption_raw", STRING_MAP, "the caption fields as read, in the source's order"),
        *_DECLARED,
        ("uid_declared", pa.string(), "the source's own uid of 32 hex characters, for sources that have them"),
        ("reason", pa.string(), "`ok`, or why the record is out before any rule is applied (bad_row, video)"),
    ),
)

METADATA = Schema(
    "metadata",
    _columns(
        ("uid", pa.string(), "identity of the sample: 32 hex characters"),
        ("uid_lo", pa.uint64(), "low 64 bits of uid"),
        ("source", pa.string(), "name of the source"),
        ("native_id", pa.string(), "the source's own identifier, or empty"),
        ("url", pa.string(), "address of the picture as the dump has it"),
        ("caption", pa.string(), "the caption that the recipe made; the first where it made several"),
        ("captions", pa.list_(pa.string()), "all captions that the recipe made"),
        ("caption_raw", STRING_MAP, "the caption fields as read, in the source's order"),
        ("caption_recipe", pa.string(), "name of the recipe that made the captions"),
        *_DECLARED,
        ("file", pa.string(), "name of the dump file"),
        ("line", pa.int64(), "number of the record in its file, from 0"),
        ("reason", pa.string(), "`ok`, or why the row is skipped before any request"),
        ("duplicate_row_of", pa.string(), "uid of the earlier equal record, for duplicate_row"),
    ),
)

# What a retry reads: rows as they were ingested, and how often each was tried before.
RETRY = Schema(
    "retry",
    METADATA.columns + _columns(("attempt", pa.int32(), "number of this attempt; the first download was 0")),
)

SHARD = Schema(
    "shard",
    _columns(
        ("caption", pa.string(), "the caption that the recipe made; the first where it made several"),
        ("url", pa.string(), "address of the picture as the dump has it"),
        ("key", pa.string(), "name of the sample in its tar, unique in its source"),
        ("status", pa.string(), "success, failed_to_download, failed_to_resize or skipped"),
        ("error_message", pa.string(), "img2dataset's text for the failure, null when there is none"),
        ("width", pa.int32(), "width of the stored picture in pixels"),
        ("height", pa.int32(), "height of the stored picture in pixels"),
        ("original_width", pa.int32(), "width of the downloaded picture in pixels"),
        ("original_height", pa.int32(), "height of the downloaded picture in pixels"),
        ("exif", pa.string(), "EXIF tags of the downloaded picture as JSON"),
        ("sha256", pa.string(), "SHA-256 of the downloaded bytes, hex"),
    )
    + _pick(
        METADATA.columns,
        "uid",
        "uid_lo",
        "source",
        "native_id",
        "captions",
        "caption_raw",
        "caption_recipe",
        "license",
    )
    + _columns(
        ("reason", pa.string(), "one of the closed list of reasons"),
        ("attempt", pa.int32(), "0 for the first download of this uid, one more for each retry"),
        ("mime", pa.string(), "type of the downloaded picture by its own bytes"),
        ("phash", pa.uint64(), "64-bit DCT perceptual hash of the decoded picture"),
        (
            "pixel_hash",
            pa.string(),
            "128-bit hash of size and decoded RGB pixels, hex; a JPEG that was shrunk to be stored was decoded at a "
            "reduced scale (unless `exact_decode`), so equal pixels of another format or image size hash otherwise",
        ),
        ("frames", pa.int32(), "frames of the downloaded picture, of which the first is stored; null if unknown"),
        ("original_bytes", pa.int64(), "length of the downloaded picture in bytes; null if unknown"),
        ("entropy", pa.float32(), "Shannon entropy of the stored picture's grey levels in bits, 0 to 8"),
        ("contrast", pa.float32(), "standard deviation of the stored picture's grey levels, 0 (one colour) to 0.5"),
    )
    + _pick(
        METADATA.columns,
        "nsfw_declared",
        "language_declared",
        "hash_declared",
        "scores_declared",
        "face_bboxes",
        "file",
        "line",
        "duplicate_row_of",
    )
    + _columns(
        ("shard", pa.string(), "number of the shard in its source, zero padded"),
        ("offset", pa.int64(), "position of the stored picture's bytes in the tar"),
        ("size", pa.int64(), "length of the stored picture in bytes"),
    ),
)

# What `adopt` knows of one tar before it has seen the others: not published, since a uid may stand in two of them.
STAGED = Schema(
    "staged",
    SHARD.columns
    + _columns(("stored_sha256", pa.string(), "SHA-256 of the picture's bytes as they were read from the tar, hex")),
)


def features(dim: int) -> Schema:
    """Schema of a feature sidecar for embeddings of `dim` numbers."""
    vector = pa.list_(pa.float16(), dim)
    return Schema(
        "features",
        _columns(
            ("uid", pa.string(), "identity of the sample"),
            ("clip_score", pa.float32(), "cosine of image and text embedding, −1 to 1; null where one of them is"),
            ("image_embedding", vector, "L2-normalised image embedding, null where the picture cannot be embedded"),
            ("text_embedding", vector, "L2-normalised embedding of `caption`, null where it cannot be had"),
        ),
    )


def eval_features(dim: int) -> Schema:
    """Schema of the embeddings of one evaluation set's pictures."""
    return Schema(
        "eval_features",
        _columns(
            ("item", pa.string(), "name of the evaluation picture in its set, as verdicts give it"),
            ("image_embedding", pa.list_(pa.float16(), dim), "L2-normalised image embedding"),
        ),
    )


# What `headwater signals` finds; null where a signal was not asked for.
SIGNALS = Schema(
    "signals",
    _columns(
        ("uid", pa.string(), "identity of the sample"),
        ("caption_words", pa.int32(), "words of the caption, separated by white space"),
        ("caption_chars", pa.int32(), "characters of the caption"),
        ("language", pa.string(), "ISO 639 code of the caption's most likely language"),
        ("language_score", pa.float32(), "how sure the language model is, 0 to 1"),
        ("caption_repetition", pa.float32(), "share of the caption's words that repeat an earlier one, 0 to 1"),
        ("caption_boilerplate", pa.bool_(), "whether the caption is a file name, an address or a stock phrase"),
        ("caption_blocked", pa.bool_(), "whether the caption holds a phrase of the block list"),
        ("entries", pa.list_(pa.int32()), "metadata entries that the caption holds, as positions in their list"),
        ("text_based", pa.bool_(), "whether the caption names a class of the class list"),
        ("cluster", pa.int32(), "cluster whose centroid is nearest to the image embedding"),
        ("image_based", pa.bool_(), "whether that cluster is the nearest of some reference picture"),
        ("nsfw_score", pa.float32(), "what the given classifier head says of the image embedding, 0 to 1"),
    ),
)

VERDICTS = Schema(
    "verdicts",
    _columns(
        ("uid", pa.string(), "identity of the sample"),
        ("kind", pa.string(), "exact_bytes, exact_pixels, near, semantic or placeholder; null for a survivor"),
        ("duplicate_of", pa.string(), "uid of the survivor of the group, null for a survivor and for a placeholder"),
        (
            "distance",
            pa.float32(),
            "distance to the survivor, 0 to 1: 0 if exact, of aligned pixels if near, 1 − cosine if semantic",
        ),
        ("group", pa.string(), "uid that names the group, null when alone"),
        (
            "caption_of",
            pa.string(),
            "uid of the first sample with nearly the same caption, null for that one and when alone",
        ),
        ("caption_similarity", pa.float32(), "estimated Jaccard similarity to that caption, 0 to 1"),
        (
            "eval_set",
            pa.string(),
            "evaluation set that holds the same picture, the closest if several; null when none does",
        ),
        ("eval_kind", pa.string(), "exact_bytes, exact_pixels, near or semantic, as for kind"),
        ("eval_item", pa.string(), "the evaluation picture that it equals"),
        ("eval_distance", pa.float32(), "distance to it, as for distance"),
    ),
)


def eval_column(name: str) -> str:
    """The verdict column of the evaluation set `name`: `eval_in_` and its lower-case letters and digits."""
    return "eval_in_" + re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def verdicts(eval_sets: Sequence[str]) -> Schema:
    """Schema of a verdict sidecar: VERDICTS, and a column of kinds for each evaluation set."""
    columns = (
        (
            eval_column(name),
            pa.string(),
            f"how the evaluation set {name} holds the picture, as eval_kind; null when it does not",
        )
        for name in eval_sets
    )
    return Schema("verdicts", VERDICTS.columns + _columns(*columns))


MANIFEST = Schema(
    "manifest",
    _columns(
        ("uid", pa.string(), "identity of the sample"),
        ("source", pa.string(), "name of the source"),
        ("shard", pa.string(), "number of the shard in its source"),
        ("offset", pa.int64(), "position of the stored picture's bytes in the tar"),
        ("size", pa.int64(), "length of the stored picture in bytes"),
        ("caption", pa.string(), "the caption to train on"),
        ("repeat", pa.int32(), "0 for the first use of the sample, one more for each repetition"),
    ),
)

# What `headwater remove` was told never to show again.
REMOVALS = Schema(
    "removals",
    _columns(
        ("uid", pa.string(), "identity of the removed sample"),
        ("reason", pa.string(), "why it was removed, as it was given"),
        ("day", pa.date32(), "when, in UTC"),
        ("asked_by", pa.string(), "who asked for it, as it was given; empty if nobody was named"),
    ),
)

# What became of each use of a sample in one file of an export.
EXPORT = Schema(
    "export",
    _columns(("key", pa.string(), "name of the sample in the export: `<uid>-<repeat>`, unique in the mixture"))
    + _pick(MANIFEST.columns, "uid", "repeat", "source", "shard")
    + _columns(
        ("status", pa.string(), "success, failed_to_download (not to be had) or failed_to_resize (no picture)"),
        ("reason", pa.string(), "one of the closed list of reasons"),
        ("error_message", pa.string(), "what is wrong, null when nothing is"),
        ("offset", pa.int64(), "position of the picture's bytes in the exported tar, null in other files"),
        ("size", pa.int64(), "length of the picture in bytes, null where it is not in the export"),
    ),
)
