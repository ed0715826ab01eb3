"""Build the demo's drawings from openclipart: `python -m demo.build_drawings`.

Users do not run this; its output is committed as `demo/corpus/drawings.parquet` and `NOTICE-drawings.md`. It reads
the SVG files of Debian's package `openclipart-svg` (0.18), takes those of everyday things by rules that look at no
result of the filters, renders them and records author and licence of each. `drawings_left_out.csv` is input, made by
looking at the pictures. The same package and libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import html
import io
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from demo.corpus import CORPUS_DIR
from filters.errors import HeadwaterError, InputError

SVG = Path("/usr/share/openclipart/svg")  # where the package puts them
LEFT_OUT = CORPUS_DIR / "drawings_left_out.csv"
SIZE, MARGIN = 256, 10  # longest side of a picture and white around what is drawn, in px
ACROSS = 1024  # px at which a page is rendered; what is drawn on it must not be smaller than a picture
MIN_SHORT, MAX_ASPECT = 64, 3.0
WANTED, PER_HAND = 640, 12
LICENCE = "Public domain (Creative Commons Public Domain Dedication)"
# Everyday things; no flags, logos, signs, weapons, drinks with alcohol, religion or portraits.
# Everyday things; no flags, logos, signs, weapons, drinks with alcohol, religion or portraits.
FOLDERS = {
    "": ("animals", "buildings", "containers", "decorations", "education", "electronics", "food", "office", "plants"),
    "animals": ("amphibian", "birds", "bugs", "dinosaurs", "fish", "mammals"),
    "animals/mammals": ("bears", "big_cats", "dogs", "horses", "housecats"),
    "buildings": ("furniture", "homes"),
    "computer": ("hardware",),
    "education": ("books",),
    "electronics": ("battery", "bulb"),
    "food": ("beverages", "breads_and_carbs", "dairy", "desserts", "fruit", "meats_and_eggs", "vegetables"),
    "geography": ("astronomy",),
    "office": ("telephone",),
    "people": ("clothing", "clothing/hats"),
    "plants": ("flowers", "trees", "trees/evergreen"),
    "recreation": ("games", "games/chess", "holiday", "holiday/christmas", "music", "party", "sports", "toys"),
    "science": (".", "astronomy"),
    "signs_and_symbols": ("clocks", "weather"),
    "tools": (".",),
    "transportation": (".", "boating", "vehicles"),
}


_USED = {Path(top, folder) for top, folders in FOLDERS.items() for folder in folders}


@dataclass(frozen=True, slots=True)
class Source:
    """One SVG file that may be used: its path without suffix, and what its metadata say."""

    name: str
    title: str
    author: str
    svg: str

    @property
    def hand(self) -> tuple[str, str]:
        """Folder and artist: files of one hand are often variants of each other, and stay together."""
        return str(Path(self.name).parent), re.sub(r"[^a-z]", "", self.author.lower())


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.build_drawings", description="Build the demo's drawings.")
    parser.add_argument(
        "--svg", type=Path, default=Path("/usr/share/openclipart/svg"), help="openclipart's SVG files"
    )
    parser.add_argument("--out", type=Path, default=CORPUS_DIR, help="where to write (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        table = build(args.svg)
    except HeadwaterError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    pq.write_table(table, args.out / "drawings.parquet", compression="none")
    (args.out / "NOTICE-drawings.md").write_text(notice(table), encoding="utf-8")
    print(f"{table.num_rows} drawings, {table['image'].nbytes / 1e6:.1f} MB", file=sys.stderr)
    return 0


def build(folder: Path) -> pa.Table:
    """The table of drawings (columns: see `demo.drawings.load_drawings`) from the SVG files below `folder`.

    Hands (see `Source.hand`) are taken in the order of a hash of their name, at most `PER_HAND` files of each, until
    `WANTED` pictures could be rendered; then those that were left out by eye and repeats of equal pixels are dropped.
    """
    hands: dict[tuple[str, str], list[Source]] = defaultdict(list)
    for path in sorted(folder.rglob("*.svg")):
        found = read_source(path, folder)
        if found is not None:
            hands[found.hand].append(found)
    if not hands:
        raise InputError(f"{folder}: no SVG file of openclipart here; install openclipart-svg or pass --svg DIR")
    drawn: list[tuple[Source, Image.Image]] = []
    for hand in sorted(hands, key=lambda h: hashlib.sha256("\x1f".join(h).encode()).hexdigest()):
        if len(drawn) >= WANTED:
            break
        pictures = ((source, picture_of(source.svg)) for source in hands[hand])
        drawn += [(source, picture) for source, picture in pictures if picture is not None][:PER_HAND]
    return _table(drawn)


def read_source(path: Path, folder: Path) -> Source | None:
    """What is to be known of one file; None unless it is in `FOLDERS`, in the public domain, signed and plain.

    Files with text or embedded pictures are out: their look depends on fonts, or they are not drawings.
    """
    name = path.relative_to(folder).with_suffix("").as_posix()
    if Path(name).parent not in _USED:
        return None
    svg = path.read_text(encoding="utf-8", errors="replace")
    licences = re.findall(r'<(?:cc:)?license[^>]*resource="([^"]*)"', svg)
    author = re.search(r"<dc:creator>.*?<dc:title[^>]*>(.*?)</dc:title>", svg, re.DOTALL)
    title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", svg, re.DOTALL)
    is_free = licences and all(re.sub(r"\W", "", text.lower()).endswith("publicdomain") for text in licences)
    if not is_free or author is None or title is None or not _plain(author[1]) or re.search("<(text|image)", svg):
        return None
    return Source(name, _plain(title[1]), _plain(author[1]), svg)


def picture_of(svg: str) -> Image.Image | None:
    """What is drawn, cut out of its page with a margin, at most `SIZE` px a side; None if that cannot be had."""
    import resvg_py  # comes with the `dev` extra only

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, background="#ffffff", skip_system_fonts=True, width=ACROSS)
    except ValueError:  # no size, no content
        return None
    page = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    box = ImageOps.invert(page.convert("L")).point(lambda level: 255 * (level > 8)).getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < SIZE:
        return None
    drawn = page.crop(box)
    drawn.thumbnail((SIZE - 2 * MARGIN, SIZE - 2 * MARGIN), Image.Resampling.LANCZOS, reducing_gap=None)
    framed = ImageOps.expand(drawn, MARGIN, "white")
    short, long = sorted(framed.size)
    return framed if short >= MIN_SHORT and long <= MAX_ASPECT * short else None


def notice(table: pa.Table) -> str:
    """The notice of the drawings, as Markdown: a line for each file with its title, author and licence."""
    rows = table.select(["drawing", "title", "author", "license"]).to_pylist()
    lines = [f"| {r['drawing']}.svg | {_cell(r['title'])} | {_cell(r['author'])} | {r['license']} |" for r in rows]
    head = (
        "# Drawings of openclipart: `drawings.parquet`\n\n"
        "- Title and authors: Open Clip Art Library, release 0.18; title and author of each file below, as its own "
        "metadata give them, less addresses\n"
        "- Source: https://www.openclipart.org, taken from Debian's package `openclipart-svg` 1:0.18+dfsg\n"
        f"- Licence: {LICENCE}, declared in each file\n"
        "- Changes: a choice of the files, rendered from SVG on white, cut to what is drawn with a margin, at most "
        f"{SIZE} px a side, stored as WebP; nothing was redrawn.\n\n"
        "| file | title | author | licence |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"


def _table(drawn: list[tuple[Source, Image.Image]]) -> pa.Table:
    with LEFT_OUT.open(encoding="utf-8", newline="") as file:
        left_out = {row["drawing"] for row in csv.DictReader(file)}
    rows, seen = [], set()
    for source, picture in sorted(drawn, key=lambda pair: pair[0].name):
        is_repeat = picture.tobytes() in seen
        seen.add(picture.tobytes())
        if is_repeat or source.name in left_out:
            continue
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=90, method=6)
        rows.append(
            (source.name, _without_address(source.title), _without_address(source.author), LICENCE, out.getvalue())
        )
    names = ("drawing", "title", "author", "license")
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    return pa.table({**columns, "image": pa.array([row[4] for row in rows], pa.binary())})


def _plain(text: str) -> str:
    return " ".join(html.unescape(text).split())


def _without_address(text: str) -> str:
    """The text without an e-mail address in brackets: a name is credit enough."""
    return re.sub(r"\s*[(\[][^)\]]*@[^)\]]*[)\]]", "", text)


def _cell(text: str) -> str:
    return text.replace("|", "/")


if __name__ == "__main__":
    sys.exit(main())
