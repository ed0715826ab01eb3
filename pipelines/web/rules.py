"""What the robots.txt of each origin says to us, as one worker knows it."""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic

from pipelines.store.schema import REASONS
from pipelines.web import robots
from pipelines.web.request import Reply
from pipelines.web.texts import KEPT, KEPT_FAILURE, Text

KNOWN = 20_000
# For these reasons there is no robots.txt, which leaves everything allowed (RFC 9309, section 2.3.1.3); for all
# others it may be there, and its host is left alone.
_ABSENT = frozenset({"http_404", "http_410", "http_4xx", "redirects", "bad_url", "private_address", "placeholder"})


class Rulebook:
    """The rules of the origins asked last, or why an origin's rules cannot be had."""

    def __init__(self, user_agent: str) -> None:
        self._user_agent = user_agent
        self._known: OrderedDict[str, tuple[robots.Rules | Reply, float]] = OrderedDict()

    def of(self, origin: str) -> robots.Rules | Reply | None:
        """The rules of `origin`, or the reply that stands for them; None where it has to be asked."""
        rules, until = self._known.get(origin, (None, 0.0))
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
        self._known[origin] = (rules, monotonic() + (KEPT if text.reason == "ok" else KEPT_FAILURE))
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def text_of(reply: Reply) -> Text:
    """What a reply to a request for robots.txt amounts to; one that is too long counts as far as it was read."""
    if reply.reason in ("ok", "too_many_bytes"):
        return Text("ok", reply.body.decode("utf-8", "replace"))
    if reply.reason in _ABSENT:
        return Text("ok")
    return Text(reply.reason, message=f"robots.txt: {reply.message or REASONS[reply.reason][1]}")
