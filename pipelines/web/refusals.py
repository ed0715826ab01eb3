"""What a server's answer forbids: opt-outs by X-Robots-Tag, and rights reserved by TDM-Reservation."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from multidict import CIMultiDict, CIMultiDictProxy

from pipelines.store.reasons import REASONS
from pipelines.web.config import FetchConfig

Headers = CIMultiDict[str] | CIMultiDictProxy[str]


def refusal(headers: Headers, config: FetchConfig) -> tuple[str, str] | None:
    """Reason (`opt_out`, `tdm_reserved`) and message where the answer's headers forbid the use; None elsewhere."""
    if _opted_out(headers.getall("X-Robots-Tag", []), config.opt_out):
        return "opt_out", REASONS["opt_out"][1]
    if config.tdm and _reserved(headers.getall("TDM-Reservation", [])):
        return "tdm_reserved", REASONS["tdm_reserved"][1]
    return None


def _opted_out(values: Sequence[str], directives: Collection[str]) -> bool:
    """Whether any X-Robots-Tag value holds one of `directives`, for any agent.

    Values such as `unavailable_after: 25 Jun 2010 15:00:00 PST, noai` contain colons of their own, so each
    comma-separated piece is tried with and without what stands before its last colon. That errs towards refusing.
    """
    if not values or not directives:
        return False
    pieces = [piece.strip().lower() for value in values for piece in value.split(",")]
    words = {word for piece in pieces for word in (piece, piece.rpartition(":")[2].strip())}
    # By definition `none` is `noindex, nofollow`.
    if "none" in words:
        words.add("noindex")
    return not words.isdisjoint(directives)


def _reserved(values: Sequence[str]) -> bool:
    """Whether TDM-Reservation is 1; the W3C community's protocol says to ignore all other values than 0 and 1."""
    return any(piece.strip() == "1" for value in values for piece in value.split(","))
