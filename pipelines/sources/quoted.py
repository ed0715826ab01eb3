"""Records of delimited files whose fields may be quoted and hold line ends, without trusting the quotes.

A lone quote at the start of a field makes an ordinary CSV reader swallow the lines that follow. Here a record
that breaks the rules of quoting gives its later lines back: its first line is taken as it stands.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator

from pipelines.sources.files import line_blocks

# Wikipedia sections pass Python's limit of 128 KiB; what is longer than this is an unclosed quote.
MAX_RECORD_CHARS = 1 << 20


def quoted_records(file: str, delimiter: str, width: int) -> Iterator[tuple[list[str] | None, str]]:
    """(fields, text as read) of each record of `file`; fields is None when there are not `width` of them.

    Raises Python's process-wide `csv.field_size_limit` to `MAX_RECORD_CHARS` where it is lower.
    """
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_CHARS))
    supply = _Supply(text_lines(file))
    reader = csv.reader(supply.lines(), delimiter=delimiter, strict=True)
    while True:
        supply.taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            # the reader's own iterator may be spent, so it cannot see the lines that are given back
            fields, reader = [], csv.reader(supply.lines(), delimiter=delimiter, strict=True)
        if not _trusted(fields, len(supply.taken), delimiter, width):
            supply.give_back(1)
            fields = supply.taken[0].rstrip("\r\n").split(delimiter)
        yield _checked(fields, "".join(supply.taken), width)


class _Supply:
    """The lines of a file, of which those that one record has taken can be given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: deque[str] = deque()
        self.taken: list[str] = []

    def lines(self) -> Iterator[str]:
        """Lines up to the end of the file, or until one record has had more than it may."""
        size = 0
        while line := self._back.popleft() if self._back else next(self._lines, ""):
            size = len(line) if not self.taken else size + len(line)
            self.taken.append(line)
            yield line
            if size > MAX_RECORD_CHARS and self.taken:
                return

    def give_back(self, kept: int) -> None:
        """Return all but the first `kept` lines of the record."""
        self._back.extendleft(reversed(self.taken[kept:]))
        del self.taken[kept:]


def text_lines(file: str) -> Iterator[str]:
    """The lines of `file` with their ends; bytes that are not UTF-8 become lone surrogates."""
    for block in line_blocks(file):
        for line in io.BytesIO(block):
            yield line.decode("utf-8", "surrogateescape")


def _trusted(fields: list[str], lines: int, delimiter: str, width: int) -> bool:
    """Whether quotes were used as they should be.

    A field of several lines with a tab in it is two records joined by two lone quotes: tab separated dumps have no
    tabs in their texts. Commas in a text tell nothing.
    """
    joined = lines > 1 and delimiter == "\t" and any("\t" in field for field in fields)
    return len(fields) == width and not joined


def _checked(fields: list[str], text: str, width: int) -> tuple[list[str] | None, str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, text.rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return (fields, text) if len(fields) == width else (None, text.rstrip("\r\n"))
