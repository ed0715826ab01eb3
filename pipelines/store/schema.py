"""Column names, types and meaning of every file Headwater publishes. No other module writes them down."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from filters.errors import SchemaError

SCHEMA_VERSION = 2


class Status(enum.StrEnum):
    """What became of a row; the first three are img2dataset's values."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"
    SKIPPED = "skipped"


# reason → (status, img2dataset's literal in `error_message`, meaning). The enum is closed: a reason not listed
# here cannot be written.
REASONS: dict[str, tuple[Status, str, str]] = {
    "ok": (Status.SUCCESS, "", "the picture is in the shard"),
    "http_404": (Status.FAILED_TO_DOWNLOAD, "HTTP Error 404: Not Found", "the server has no such page"),
    "http_410": (Status.FAILED_TO_DOWNLOAD, "HTTP Error 410: Gone", "the page was removed on purpose"),
    "http_429": (Status.FAILED_TO_DOWNLOAD, "HTTP Error 429: Too Many Requests", "still refused after the retries"),
    "http_4xx": (Status.FAILED_TO_DOWNLOAD, "HTTP Error 4xx", "refused for another reason"),
    "http_5xx": (Status.FAILED_TO_DOWNLOAD, "HTTP Error 5xx", "the server still failed after the retries"),
    "timeout": (Status.FAILED_TO_DOWNLOAD, "timed out", "the deadline for the whole URL passed"),
    "dns": (Status.FAILED_TO_DOWNLOAD, "Name or service not known", "the host name has no address"),
    "connection": (Status.FAILED_TO_DOWNLOAD, "Connection error", "refused, reset or cut short"),
    "redirects": (
        Status.FAILED_TO_DOWNLOAD,
        "Too many redirects",
        "the redirect limit was reached, or one led nowhere",
    ),
    "opt_out": (
        Status.FAILED_TO_DOWNLOAD,
        "Use of image disallowed by X-Robots-Tag directive",
        "the server asks that the picture not be used",
    ),
    "tdm_reserved": (
        Status.FAILED_TO_DOWNLOAD,
        "Use of image reserved by TDM-Reservation header",
        "the server reserves its rights to text and data mining",
    ),
    "too_many_bytes": (Status.FAILED_TO_DOWNLOAD, "body too large", "the body passed the byte cap"),
    "decode": (Status.FAILED_TO_RESIZE, "Image decoding error", "the bytes are not a whole picture"),
    "too_many_pixels": (Status.FAILED_TO_RESIZE, "image area too large", "the header names more pixels than allowed"),
    "too_small": (Status.FAILED_TO_RESIZE, "image too small", "a side is shorter than the job asks for"),
    "aspect_ratio": (Status.FAILED_TO_RESIZE, "aspect ratio too large", "longer for its width than the job allows"),
    "crash": (
        Status.FAILED_TO_RESIZE,
        "decoder crashed",
        "the decoder died, hung or ran out of memory on this picture",
    ),
    "hash_mismatch": (Status.FAILED_TO_DOWNLOAD, "hash mismatch", "the bytes are not the ones the dump names"),
    "placeholder": (Status.FAILED_TO_DOWNLOAD, "placeholder", "a known error page instead of the picture"),
    "missing": (Status.FAILED_TO_DOWNLOAD, "not in the tar", "an adopted tar is cut, damaged, or lacks this picture"),
    "host_budget": (Status.FAILED_TO_DOWNLOAD, "host budget", "still waiting for its host at the shard's deadline"),
    "private_address": (Status.SKIPPED, "private address", "the host name leads into a private network"),
    "robots": (Status.SKIPPED, "robots.txt", "the host's robots.txt forbids the request"),
    "bad_url": (Status.SKIPPED, "unusable URL", "not an http or https URL, or one with credentials"),
    "bad_row": (Status.SKIPPED, "row cannot be parsed", "the record in the dump is broken"),
    "caption_blocked": (Status.SKIPPED, "caption on the blocklist", "the caption holds a text that the job refuses"),
    "no_caption": (Status.SKIPPED, "no caption", "the caption recipe found no text"),
    "nsfw_declared": (Status.SKIPPED, "declared NSFW", "the source declares it not safe, or does not say it is"),
    "language_declared": (Status.SKIPPED, "declared language", "the source declares another language"),
    "video": (Status.SKIPPED, "video", "the source declares a video"),
    "duplicate_row": (Status.SKIPPED, "duplicate row", "the same record stands earlier in the dump"),
}


# Skipped when found before any request; a failed download when a redirect led there.
AFTER_REDIRECT = frozenset({"private_address", "robots", "bad_url"})


def status_of(reason: str, *, redirected: bool = False) -> Status:
    """The status that belongs to `reason`; SchemaError for a reason outside the closed enum.

    `redirected` says that a server was asked and sent us on before the reason was found.
    """
    if reason not in REASONS:
        raise SchemaError(f"reason {reason!r} is not in the schema; use one of {', '.join(sorted(REASONS))}")
    return Status.FAILED_TO_DOWNLOAD if redirected and reason in AFTER_REDIRECT else REASONS[reason][0]


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
        ("pixel_hash", pa.string(), "128-bit hash of size and decoded RGB pixels, hex"),
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
            ("clip_score", pa.float32(), "cosine of image and text embedding, −1 to 1"),
            ("image_embedding", vector, "L2-normalised image embedding"),
            ("text_embedding", vector, "L2-normalised embedding of `caption`"),
        ),
    )


VERDICTS = Schema(
    "verdicts",
    _columns(
        ("uid", pa.string(), "identity of the sample"),
        ("kind", pa.string(), "exact_bytes, exact_pixels, near or placeholder; null for a survivor"),
        ("duplicate_of", pa.string(), "uid of the survivor of the group, null for a survivor and for a placeholder"),
        ("distance", pa.float32(), "verified picture distance to the survivor, 0 to 1; 0 for exact kinds"),
        ("group", pa.string(), "uid that names the group, null when alone"),
        ("eval_set", pa.string(), "evaluation set that holds the same picture, null when none does"),
        ("eval_kind", pa.string(), "exact_bytes, exact_pixels or near, as for kind"),
        ("eval_item", pa.string(), "the evaluation picture that it equals"),
    ),
)

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
