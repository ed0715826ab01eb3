"""Reader of the demo corpus: one concept drawn in eleven open emoji styles.

The files under `demo/corpus/` are written once by `python -m demo.build_corpus` and committed; nothing is downloaded
to use them. Every style has a table of pictures (128x128 RGB WebP on white), `concepts.parquet` names the concepts in
several languages, and `natural_duplicates.parquet` lists the pairs of pictures that are the same before anything
has been planted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from filters.errors import InputError

CORPUS_DIR = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Style:
    """One emoji set: its npm package version, part in the demo, the hand that drew it, and its licence."""

    name: str
    family: str
    role: str
    version: str
    license: str
    author: str
    source_url: str

    @property
    def attribution(self) -> str:
        """One line of credit for a picture: authors, source and licence."""
        return f"{self.author} ({self.source_url}), {self.license}; rendered to 128 px WebP"


STYLES: dict[str, Style] = {
    style.name: style
    for style in (
        Style(
            "noto", "noto", "train", "1.2.9", "Apache-2.0", "Noto Emoji, Google Inc.",
            "https://github.com/googlefonts/noto-emoji",
        ),
        Style(
            "twemoji", "twemoji", "train", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter Inc. and other contributors",
            "https://github.com/jdecked/twemoji",
        ),
        Style(
            "openmoji", "openmoji", "train", "1.2.29", "CC-BY-SA-4.0", "OpenMoji, the open-source emoji project",
            "https://github.com/hfg-gmuend/openmoji",
        ),
        Style(
            "fluent-emoji-flat", "fluent", "train", "1.2.6", "MIT", "Fluent Emoji (flat), Microsoft Corporation",
            "https://github.com/microsoft/fluentui-emoji",
        ),
        Style(
            "fluent-emoji", "fluent", "train", "1.2.7", "MIT", "Fluent Emoji (3-D), Microsoft Corporation",
            "https://github.com/microsoft/fluentui-emoji",
        ),
        Style(
            "emojione", "emojione", "train", "1.2.3", "CC-BY-4.0", "EmojiTwo, successor of EmojiOne 2",
            "https://github.com/EmojiTwo/emojitwo",
        ),
        Style(
            "emojione-v1", "emojione", "reference", "1.2.3", "CC-BY-SA-4.0", "EmojiOne 1, Ranks.com Inc.",
            "https://github.com/joypixels/emojione-legacy",
        ),
        Style(
            "noto-v1", "noto", "near", "1.2.5", "Apache-2.0", "Noto Emoji (first design), Google Inc.",
            "https://github.com/googlefonts/noto-emoji",
        ),
        Style(
            "fxemoji", "fxemoji", "rendition", "1.2.2", "Apache-2.0", "Firefox OS Emoji, Mozilla",
            "https://github.com/mozilla/fxemoji",
        ),
        Style(
            "emojione-monotone", "emojione", "silhouette", "1.2.1", "CC-BY-4.0", "EmojiTwo (monotone)",
            "https://github.com/EmojiTwo/emojitwo",
        ),
        Style(
            "fluent-emoji-high-contrast", "fluent", "line", "1.2.6", "MIT",
            "Fluent Emoji (high contrast), Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji",
        ),
    )
}  # fmt: skip

TRAIN_STYLES: tuple[str, ...] = tuple(s.name for s in STYLES.values() if s.role == "train")
EVAL_STYLES: tuple[str, ...] = tuple(s.name for s in STYLES.values() if s.role != "train")
ROLE: dict[str, str] = {s.name: s.role for s in STYLES.values()}
FAMILY: dict[str, str] = {s.name: s.family for s in STYLES.values()}


def load_style(style: str) -> pa.Table:
    """Return the pictures of one style, sorted by `concept`.

    Columns: `concept, style, family, role, license, attribution` (string) and `image` (binary, WebP, 128x128 RGB).
    Raises InputError when there is no such style or its file is missing.
    """
    if style not in STYLES:
        raise InputError(f"demo corpus has no style {style!r}; it has {', '.join(STYLES)}")
    return _read(f"{style}.parquet")


def load_concepts() -> pa.Table:
    """Return one row a concept, sorted by `concept`.

    Columns: `concept, hexcode, emoji, name, group, subgroup` (string), `keywords` (list of string), `names` (map from
    language code to display name), `everyday` (bool) and `styles` (int32, in how many sets it is drawn).
    """
    return _read("concepts.parquet")


def natural_duplicates() -> pa.Table:
    """Return the pairs of pictures that are the same or nearly so in the corpus itself.

    Columns (all string): `style_a, concept_a, style_b, concept_b, kind` (`equal_pixels` or `near`) and `confirmed`
    (how). A pair stands once, in the order of `STYLES` and then by concept.
    """
    return _read("natural_duplicates.parquet")


def _read(name: str) -> pa.Table:
    path = CORPUS_DIR / name
    if not path.is_file():
        raise InputError(f"demo corpus file {path} is missing; restore it from the repository")
    return pq.read_table(path)
