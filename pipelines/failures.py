"""Why rows failed, at which hosts, and what to try.

headwater failures --root data
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pipelines.job import told
from pipelines.retry import downloaded, latest_attempts
from pipelines.store.reasons import REASONS
from pipelines.store.root import Root
from pipelines.store.store_errors import answering

# Hosts and error texts that are carried from a shard, and shown of a reason.
_CARRIED, _SHOWN = 50, 3

_ANEW = "with --overwrite (the shards are then made anew)"
# What to try about each reason that a download can find; empty where nothing is to be done about it.
HINTS: dict[str, str] = {
    "http_404": "",
    "http_410": "",
    "http_429": "fewer requests: lower fetch.limit.rate, or set fetch.hosts for these hosts",
    "http_4xx": "many servers refuse clients they do not know: set fetch.contact",
    "http_5xx": "the servers had trouble: try later",
    "timeout": "raise fetch.deadline; if all hosts are slow, the line may be full: lower fetch.concurrency",
    "dns": "if many hosts: run a caching resolver on each node (unbound, dnsmasq); behind a proxy: set fetch.proxy",
    "connection": "if many hosts: a firewall may be in the way (set fetch.proxy), or the line is full (lower "
    "fetch.concurrency)",
    "redirects": f"raise fetch.max_redirects {_ANEW} if the chains are real",
    "opt_out": "",
    "tdm_reserved": "",
    "robots": "",
    "too_many_bytes": f"raise fetch.max_bytes {_ANEW}",
    "decode": "most are error pages in place of pictures; many of one host: see what it sends",
    "too_many_pixels": f"raise --max-pixels {_ANEW}; what no JPEG or WebP can hold: another --resize-mode, or png",
    "too_small": f"lower --min-image-size {_ANEW}",
    "aspect_ratio": f"raise --max-aspect-ratio {_ANEW}",
    "crash": "the decoder had too little memory or time, or the file is hostile",
    "hash_mismatch": f"the picture has changed: --verify-hash false {_ANEW} takes what is there now",
    "placeholder": "",
    "missing": "get the tar again and adopt it anew",
    "host_budget": "more rows than the hosts' limits let through: raise fetch.shard_deadline, or set fetch.hosts",
    "private_address": "if the servers are your own: set fetch.allow_private_hosts or fetch.resolve",
    "bad_url": "",
}
# Failures that may have passed when the same rows are fetched again.
PASSING = frozenset(
    {"http_429", "http_4xx", "http_5xx", "timeout", "dns", "connection", "host_budget", "private_address"}
)


@dataclass(slots=True)
class Failures:
    """Counts of failed rows by reason, and in each reason by host and by error text."""

    rows: int = 0
    by_host: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_error: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_reason: Counter[str] = field(default_factory=Counter)

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows with the columns reason, url and error_message."""
        for row in rows:
            self.rows += 1
            reason = row["reason"]
            if reason in HINTS:
                self.by_reason[reason] += 1
                self.by_host[reason][_host(row["url"])] += 1
                self.by_error[reason][row["error_message"] or ""] += 1

    def counts(self) -> dict[str, Any]:
        """What another one can `add`, as JSON; of hosts and errors only the most frequent."""
        return {
            "rows": self.rows,
            "by_reason": dict(self.by_reason),
            "by_host": {reason: dict(c.most_common(_CARRIED)) for reason, c in self.by_host.items()},
            "by_error": {reason: dict(c.most_common(_CARRIED)) for reason, c in self.by_error.items()},
        }

    def add(self, counts: Mapping[str, Any]) -> None:
        """Take in the `counts` of another; nothing for an empty mapping."""
        self.rows += counts.get("rows", 0)
        self.by_reason.update(counts.get("by_reason", {}))
        for mine, theirs in ((self.by_host, "by_host"), (self.by_error, "by_error")):
            for reason, found in counts.get(theirs, {}).items():
                mine[reason].update(found)

    def summary(self) -> dict[str, Any]:
        """By reason: rows, the most frequent hosts and error texts, and what to try."""
        return {
            reason: {
                "rows": rows,
                "hosts": dict(_top(self.by_host[reason])),
                "errors": dict(_top(self.by_error[reason])),
                "try": advice(reason),
            }
            for reason, rows in _top(self.by_reason, len(self.by_reason))
        }

    def lines(self) -> list[str]:
        """The same for people, the most frequent reason first."""
        failed = self.by_reason.total()
        if not failed:
            return []
        lines = [f"{failed:,} of {self.rows:,} rows failed"]
        for reason, rows in _top(self.by_reason, len(self.by_reason)):
            found = [f"{host} {n:,}" for host, n in _top(self.by_host[reason])]
            found += [f"{text!r} {n:,}" for text, n in _top(self.by_error[reason]) if text != REASONS[reason][1]]
            lines.append(f"  {rows:,} {reason}, {REASONS[reason][2]}: {', '.join(found)}")
            if advice(reason):
                lines.append(f"    try: {advice(reason)}")
        return lines


def advice(reason: str) -> str:
    """What to try about a reason; empty where nothing is to be done."""
    return f"{HINTS[reason]}; then --retry {reason}" if reason in PASSING else HINTS[reason]


def _top(counter: Counter[str], count: int = _SHOWN) -> list[tuple[str, int]]:
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:count]


def _host(url: str | None) -> str:
    try:
        return urlsplit(url or "").hostname or "(no host)"
    except ValueError:
        return "(no host)"


def of_root(root: Root, sources: Sequence[str]) -> Failures:
    """The failures of all or of the named sources, each row by its latest attempt; InputError for an unknown one."""
    failures = Failures()
    for source in downloaded(root, sources):
        for table in latest_attempts(root, source, ["reason", "url", "error_message"]):
            failures.count(table.to_pylist())
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater failures`."""
    parser = argparse.ArgumentParser(prog="headwater failures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", default="data", help="data root (default 'data')")
    parser.add_argument("--sources", default="", help="sources to look at, separated by commas; all if empty")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default text")
    arguments = parser.parse_args(argv)

    def work() -> int:
        with answering(arguments.root):
            failures = of_root(Root(arguments.root), [name for name in arguments.sources.split(",") if name])
        if arguments.format == "json":
            print(json.dumps(failures.summary(), indent=2))
        else:
            print("\n".join(failures.lines() or [f"none of {failures.rows:,} rows failed"]))
        return 0

    return told("failures", work)


if __name__ == "__main__":
    sys.exit(main())
