"""What servers forbid in their answers and in robots.txt."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from pipelines.store.reasons import REASONS
from pipelines.web.config import FetchConfig
from pipelines.web.refusals import refusal
from pipelines.web.robots import ALLOW_ALL, MAX_BYTES, parse

AGENT = FetchConfig().user_agent


def reason(*headers: tuple[str, str], config: FetchConfig | None = None) -> str | None:
    found = refusal(CIMultiDict(headers), config or FetchConfig())
    return found[0] if found else None


@pytest.mark.parametrize(
    ("values", "out"),
    [
        (["noai"], True),
        (["NoAI, nofollow"], True),
        (["nofollow , noimageai"], True),
        (["noml"], True),
        (["noimageindex"], True),
        (["somebot: noindex"], True),
        (["otherbot: nofollow, googlebot: noindex"], True),
        # img2dataset takes what stands before the first colon for an agent's name, and lets these two pass.
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], True),
        (["Headwater : noai"], True),
        (["nofollow", "noimageai"], True),
        (["none"], True),
        (["somebot: none"], True),
        (["all"], False),
        (["nofollow, noarchive, max-image-preview: large"], False),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False),
        (["noairport"], False),
        ([""], False),
        ([], False),
    ],
)
def test_opt_out_headers(values: list[str], out: bool) -> None:
    assert (reason(*(("X-Robots-Tag", value) for value in values)) == "opt_out") is out
    assert reason(*(("X-Robots-Tag", value) for value in values), config=FetchConfig(opt_out=())) is None


def test_the_message_of_an_opt_out_is_img2datasets() -> None:
    found = refusal(CIMultiDict({"x-robots-tag": "noai"}), FetchConfig())
    assert (
        found
        == ("opt_out", "Use of image disallowed by X-Robots-Tag directive")
        == ("opt_out", REASONS["opt_out"][1])
    )


def test_only_the_directives_that_are_asked_for_count() -> None:
    config = FetchConfig(opt_out=("noai",))
    assert reason(("X-Robots-Tag", "noindex, none"), config=config) is None
    assert reason(("X-Robots-Tag", "noindex, noai"), config=config) == "opt_out"


@pytest.mark.parametrize(
    ("values", "reserved"),
    [
        (["1"], True),
        ([" 1 "], True),
        (["0", "1"], True),
        (["0, 1"], True),
        (["0"], False),
        (["yes"], False),
        ([], False),
    ],
)
def test_tdm_reservation(values: list[str], reserved: bool) -> None:
    headers = [("tdm-reservation", value) for value in values]
    assert (reason(*headers) == "tdm_reserved") is reserved
    assert reason(*headers, config=FetchConfig(tdm=False)) is None


ROBOTS = """
User-agent: *
Disallow: /private/
Crawl-delay: 2

User-agent: Headwater
Disallow: /*.gif$
Allow: /open/
Disallow: /open
Request-rate: 1/5

User-agent: GPTBot
Disallow: /
"""


def test_the_group_that_names_us_counts_and_else_the_general_one() -> None:
    ours, general = parse(ROBOTS, AGENT), parse(ROBOTS, "someone/1.0")
    assert ours.allows("https://example.com/private/x.jpg")
    assert not general.allows("https://example.com/private/x.jpg")
    assert not ours.allows("https://example.com/a/x.gif")
    assert ours.allows("https://example.com/a/x.gif?size=1")
    assert ours.allows("https://example.com/open/x.jpg")
    assert not ours.allows("https://example.com/open?x.jpg")
    assert (ours.crawl_delay, general.crawl_delay) == (5.0, 2.0)


def test_a_name_that_only_contains_ours_is_another() -> None:
    rules = parse("User-agent: water\nDisallow: /\nUser-agent: headwater-lab\nDisallow: /\n", AGENT)
    assert rules.allows("https://example.com/x.jpg")
    assert rules.crawl_delay is None


@pytest.mark.parametrize(
    "text",
    ["", "\ufeff", "<!doctype html><p>Not found</p>", "Disallow: /", "User-agent: *\nDisallow:", "\0\x01\n:::\n"],
)
def test_files_that_forbid_nothing(text: str) -> None:
    assert parse(text, AGENT).allows("https://example.com/x.jpg")


def test_a_byte_order_mark_hides_nothing() -> None:
    assert not parse("\ufeffUser-agent: *\nDisallow: /\n", AGENT).allows("https://example.com/x.jpg")


def test_without_a_file_all_is_allowed() -> None:
    assert ALLOW_ALL.allows("https://example.com/")
    assert ALLOW_ALL.crawl_delay is None


def test_a_hostile_file_costs_little() -> None:
    """As large as is read, all wildcards: matching stays linear in the file, with no backtracking."""
    text = "User-agent: *\n" + "Disallow: /*a*b*a*b*a*b*c$\n" * (MAX_BYTES // 27)
    assert parse(text, AGENT).allows("https://example.com/" + "ab" * 1000)
