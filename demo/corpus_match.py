"""Which icon of each emoji set draws which emoji: the matching behind the demo corpus.

Five sets say which code points an icon stands for (`chars.json`); the others only have names, which followed
Unicode's names as they were when the set was drawn. So every emoji collects the names it has ever had, from
Unicode, from the sets that list code points and from the sets' own lists of aliases, and a set without code points
is matched by those names.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.corpus import CORPUS_DIR, STYLES
from filters.errors import InputError

MIN_STYLES = 9
LANGUAGES = ("de", "es", "fr", "hi", "ja", "pt", "ru", "zh")
SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})

# Icons whose name misleads, told by looking at them: most are of Firefox OS, which names its icons in its own way.
CORRECTIONS = CORPUS_DIR / "icon_corrections.csv"


@dataclass(frozen=True)
class Concept:
    """One emoji with its names and the icon that draws it in each set."""

    slug: str
    hexcode: str
    emoji: str
    name: str
    group: str
    subgroup: str
    order: int
    keywords: list[str]
    names: dict[str, str]
    icons: dict[str, str] = field(default_factory=dict)


def read_json(packages: Path, name: str) -> Any:
    """Read one JSON file below `packages/node_modules`; InputError when it is not there."""
    path = packages / "node_modules" / name
    if not path.is_file():
        raise InputError(f"{path} is missing; install the npm packages there or leave --packages out")
    return json.loads(path.read_text(encoding="utf-8"))


def slugify(name: str) -> str:
    """Turn a display name into the slug form that the sets share: `Dog Face` gives `dog-face`."""
    name = name.replace("#", " pound").replace("*", " asterisk").replace("!", " exclamation")
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = plain.lower().replace("'", "").replace("’", "").replace("&", "and")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def match_concepts(packages: Path) -> list[Concept]:
    """Return the concepts that at least `MIN_STYLES` sets draw, sorted by slug, with each set's icon name.

    Args:
        packages: a folder in which the npm packages are installed (it holds `node_modules`).
    """
    emoji = _emoji(packages)
    icon_sets = {style: read_json(packages, f"@iconify-json/{style}/icons.json") for style in STYLES}
    by_code = {style: _icons_by_code(packages, style) for style in STYLES}
    owner = _slug_owners(emoji, icon_sets, by_code)
    corrections = _read_corrections()
    for style, icons in icon_sets.items():
        corrected = corrections.get(style, {})
        by_hand = {concept: icon for icon, concept in corrected.items()}
        names = (set(icons["icons"]) | set(icons.get("aliases", {}))) - set(corrected)
        for concept in emoji.values():
            slugs = owner.get(concept.hexcode, [])
            if style == "fxemoji":
                slugs = [form for slug in slugs for form in (slug, slug.replace("-", ""))]
            candidates = [by_hand.get(concept.slug), by_code[style].get(_code_key(concept.hexcode))]
            candidates += [slug for slug in slugs if slug in names]
            found = next((icon for icon in candidates if icon is not None), None)
            if found is not None:
                concept.icons[style] = found
    kept = [c for c in emoji.values() if len(c.icons) >= MIN_STYLES]
    return sorted(kept, key=lambda c: c.slug)


def _code_key(hexcode: str) -> str:
    """Code points without the variation selector, which sets write or leave out as they like."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def _emoji(packages: Path) -> dict[str, Concept]:
    """Every emoji of a named group without skin tone, by hexcode."""
    meta = read_json(packages, "emojibase-data/meta/groups.json")
    labels = {
        language: {
            row["hexcode"]: row["label"] for row in read_json(packages, f"emojibase-data/{language}/data.json")
        }
        for language in LANGUAGES
    }
    concepts: dict[str, Concept] = {}
    for row in read_json(packages, "emojibase-data/en/data.json"):
        group = meta["groups"].get(str(row.get("group")))
        if group in (None, "component") or SKIN_TONES & set(row["hexcode"].split("-")):
            continue
        name = row["label"].lower()
        concepts[row["hexcode"]] = Concept(
            slug=slugify(name),
            hexcode=row["hexcode"],
            emoji=row["emoji"],
            name=name,
            group=group,
            subgroup=meta["subgroups"][str(row["subgroup"])],
            order=row["order"],
            keywords=sorted(row.get("tags", [])),
            names={language: labels[language][row["hexcode"]] for language in LANGUAGES},
        )
    return concepts


def _icons_by_code(packages: Path, style: str) -> dict[str, str]:
    """The set's own list of code points, `{code key: icon}`; empty where the set has none."""
    chars: dict[str, str] = read_json(packages, f"@iconify-json/{style}/chars.json")
    return {_code_key(code): icon for code, icon in sorted(chars.items(), reverse=True)}


def _slug_owners(
    emoji: dict[str, Concept], icon_sets: dict[str, Any], by_code: dict[str, dict[str, str]]
) -> dict[str, list[str]]:
    """The slugs that mean each emoji and no other one, best first, `{hexcode: [slug, ...]}`.

    A slug belongs to the emoji that claims it in the earliest tier: Unicode's name, a name in a set with code
    points, an alias of one of those. A slug that two emoji claim in the same tier belongs to neither.
    """
    links: dict[str, set[str]] = {}
    for icons in icon_sets.values():
        for alias, entry in icons.get("aliases", {}).items():
            if set(entry) == {"parent"}:
                links.setdefault(alias, set()).add(entry["parent"])
                links.setdefault(entry["parent"], set()).add(alias)
    claims: dict[str, list[tuple[int, str]]] = {}
    for concept in emoji.values():
        key = _code_key(concept.hexcode)
        tiers = [{concept.slug}, {codes[key] for codes in by_code.values() if key in codes}]
        tiers.append({other for slug in tiers[0] | tiers[1] for other in links.get(slug, ())})
        for rank, slugs in enumerate(tiers):
            for slug in slugs - set().union(*tiers[:rank]):
                claims.setdefault(slug, []).append((rank, concept.hexcode))
    owned: dict[str, list[tuple[int, str]]] = {}
    for slug, claimants in claims.items():
        best = min(rank for rank, _ in claimants)
        first = [hexcode for rank, hexcode in claimants if rank == best]
        if len(first) == 1:
            owned.setdefault(first[0], []).append((best, slug))
    return {hexcode: [slug for _, slug in sorted(slugs)] for hexcode, slugs in owned.items()}


def _read_corrections() -> dict[str, dict[str, str]]:
    """The icons matched by eye, `{style: {icon: concept}}`; an empty concept means that the icon is left out."""
    corrections: dict[str, dict[str, str]] = {}
    with CORRECTIONS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            corrections.setdefault(row["style"], {})[row["icon"]] = row["concept"]
    return corrections
