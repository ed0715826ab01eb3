"""Why a row has no picture: the closed list of reasons, and the status that each belongs to."""

from __future__ import annotations

import enum

from filters.errors import SchemaError


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
    "too_many_pixels": (
        Status.FAILED_TO_RESIZE,
        "image area too large",
        "the header names more pixels than allowed, or than the stored format can hold on a side",
    ),
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
    "removed": (Status.SKIPPED, "removed", "taken down or past its retention by `headwater remove`"),
    "duplicate_row": (Status.SKIPPED, "duplicate row", "the same record stands earlier in the dump"),
    "withdrawn": (Status.SKIPPED, "withdrawn", "the dump no longer holds the record"),
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
