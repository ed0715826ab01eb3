"""The rules of a host's robots.txt for us (RFC 9309), read by Protego."""

from __future__ import annotations

from dataclasses import dataclass

from protego import Protego

# RFC 9309 asks for at least 500 kibibytes; what stands beyond them is not read.
MAX_BYTES = 500 * 1024


@dataclass(frozen=True, slots=True)
class Rules:
    """What one robots.txt says to one agent."""

    file: Protego
    user_agent: str

    def allows(self, url: str) -> bool:
        """Whether `url` may be asked for."""
        return self.file.can_fetch(url, self.user_agent)

    @property
    def crawl_delay(self) -> float | None:
        """Seconds to leave between two requests, by Crawl-delay or Request-rate, the slower; None without either."""
        rate = self.file.request_rate(self.user_agent)
        delays = [self.file.crawl_delay(self.user_agent), rate.seconds / rate.requests if rate else None]
        return max((delay for delay in delays if delay), default=None)


def parse(text: str, user_agent: str) -> Rules:
    """The rules of the robots.txt `text` for `user_agent`; lines that make no sense are passed over."""
    return Rules(Protego.parse(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")), user_agent)


ALLOW_ALL = parse("", "")
