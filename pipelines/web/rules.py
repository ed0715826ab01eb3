"""What the robots.txt of each origin says to us, as one worker knows it."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic

from pipelines.store.reasons import REASONS
from pipelines.web import robots
from pipelines.web.request import Reply
from pipelines.web.texts import KEPT, KEPT_FAILURE, Text

# Characters of files whose rules a worker holds, and what an empty one counts; as rules each takes some 30 bytes.
HELD, EMPTY = 4 * 2**20, 100
# For these reasons there is no robots.txt, which leaves everything allowed (RFC 9309, section 2.3.1.3); for all
# others it may be there, and its host is left alone.
_ABSENT = frozenset({"http_404", "http_410", "http_4xx", "redirects", "bad_url", "private_address", "placeholder"})


class Rulebook:
    """The rules of the origins asked last, or why an origin's rules cannot be had."""

    def __init__(self, user_agent: str) -> None:
        self._user_agent = user_agent
        self._known: OrderedDict[str, tuple[robots.Rules | Reply, float, int]] = OrderedDict()
        self._room = HELD

    def of(self, origin: str) -> robots.Rules | Reply | None:
        """The rules of `origin`, or the reply that stands for them; None where it has to be asked."""
        rules, until, _ = self._known.get(origin, (None, 0.0, 0))
        if until <= monotonic():
            return None
        self._known.move_to_end(origin)
        return rules

    def learn(self, origin: str, text: Text) -> None:
        """Take in what came of asking for a robots.txt."""
        rules: robots.Rules | Reply = robots.ALLOW_ALL
        if text.reason != "ok":
            rules = Reply(text.reason, message=text.message)
        elif text.text:
            rules = robots.parse(text.text, self._user_agent)
        self._drop(origin)
        size = EMPTY + len(text.text)
        self._known[origin] = (rules, monotonic() + (KEPT if text.reason == "ok" else KEPT_FAILURE), size)
        self._room -= size
        while self._room < 0:
            self._drop(next(iter(self._known)))

    def _drop(self, origin: str) -> None:
        self._room += self._known.pop(origin, (None, 0.0, 0))[2]


def text_of(reply: Reply) -> Text:
    """What a reply to a request for robots.txt amounts to; one that is too long counts as far as it was read."""
    if reply.reason in ("ok", "too_many_bytes"):
        return Text("ok", reply.body.decode("utf-8", "replace"))
    if reply.reason in _ABSENT:
        return Text("ok")
    return Text(reply.reason, message=f"robots.txt: {reply.message or REASONS[reply.reason][1]}")
