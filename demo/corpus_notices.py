"""The notices of the demo corpus: who drew each set, where it is from, its licence and what was changed."""

from __future__ import annotations

from pathlib import Path

from demo.corpus import STYLES, Style

APACHE = (
    "Licensed under the Apache License, Version 2.0; its text is in the file `LICENSE` at the top of this project."
)
MIT_TERMS = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
TERMS = {
    "Apache-2.0": APACHE,
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International, https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "Creative Commons Attribution-ShareAlike 4.0 International, "
    "https://creativecommons.org/licenses/by-sa/4.0/; the pictures in this file stay under it.",
    "MIT": f"Copyright (c) Microsoft Corporation.\n\n{MIT_TERMS}",
}
NAMES_NOTICE = f"""# Names, groups and keywords: `concepts.parquet`

- Sources: emojibase-data 17.0.0 (https://github.com/milesj/emojibase, Copyright (c) 2017-2019 Miles Johnson) under
  the MIT licence; its names and keywords come from the Unicode Common Locale Data Repository (Copyright (c)
  1991-present Unicode, Inc., https://www.unicode.org/license.txt).
- Changes: English names in lower case; a choice of languages and of emoji; slugs made from the names.

## Terms of the MIT licence

{MIT_TERMS}"""


def write_notices(out: Path) -> None:
    """Write `NOTICE-<style>.md` for every style and `NOTICE-names.md` into the folder `out`."""
    for style in STYLES.values():
        (out / f"NOTICE-{style.name}.md").write_text(style_notice(style), encoding="utf-8")
    (out / "NOTICE-names.md").write_text(NAMES_NOTICE, encoding="utf-8")


def style_notice(style: Style) -> str:
    """The notice of one set, as Markdown."""
    return (
        f"""# {style.author}: `{style.name}.parquet`

- Title and authors: {style.author}
- Source: {style.source_url}, taken from the npm package `@iconify-json/{style.name}` {style.version}
- Licence: {style.license}
- Changes: a choice of the set's icons without skin-tone variants, rendered from SVG to 128 x 128 px on white and
  stored as WebP; nothing was redrawn.

## Terms

{TERMS[style.license]}
""".rstrip()
        + "\n"
    )
