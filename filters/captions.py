"""What a caption is like by its text alone: words, characters, repetition, boilerplate.

Each signal looks at column `caption`, the first of a sample's captions; it is null where the caption is null. None of
them drops a row: thresholds are chosen in SQL.
"""

from __future__ import annotations

import string

import pyarrow as pa
import pyarrow.compute as pc

from filters.errors import InputError, SchemaError

# Signs that are no part of a word at its ends: those of ASCII, and the usual ones of other scripts.
_MARKS = string.punctuation + "“”„‘’‚…–—−·•«»‹›¡¿、。，．！？：；「」『』（）【】～।॥،؛؟۔\u200e\u200f"

# What makes a caption boilerplate where it is all of it, in RE2's syntax. First file names and addresses as they are.
_PICTURE = r"\.(?:jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|svg|heic|heif|avif|ico|psd|raw|nef|cr2|pdf)"
_WHOLE = (
    rf"\S+{_PICTURE}",
    rf"(?:file|image):.*{_PICTURE}",
    r"(?:[a-z][a-z0-9+]*://|www\.)\S+",
    r"[^\s@]+@[^\s@]+\.[a-z]{2,}",
    r"(?:[a-z0-9-]+\.)+(?:com|net|org|info|biz|edu|gov|io|co|us|uk|de|fr|eu|ru|jp|cn)(?:/\S*)?",
)
_NAME_OR_ADDRESS = rf"(?i)\A[\"'(<\[]*(?:{'|'.join(_WHOLE)})[\"')>\].,;]*\z"
# Then what is left when all but letters, marks and digits is one space: numbered files, numbers, hashes; and stock
# phrases, in English only.
_BARE = (
    "(?:img|imag|image|images|whatsapp image|dsc|dscn|dscf|dsci|dcim|pict|pic|pics|picture|photo|foto|pxl|gopr|sam|"
    "cimg|imgp|p|scan|screenshot|screen shot|thumb|thumbnail|unnamed|untitled|file|download) ?[0-9]"
    "(?:[0-9 ]|of|at|am|pm|wa|x|px|copy|edited|resized|scaled|jpe?g|png|gif)*",
    "[0-9 ]+",
    "[0-9a-f]{16,}|[0-9a-f]{8} [0-9a-f]{4} [0-9a-f]{4} [0-9a-f]{4} [0-9a-f]{12}",
    "(?:(?:free|premium|vector|royalty free|stock|profile|cover|featured|main|default|product|hero|header|thumbnail|"
    "preview|sample|full size|blog|post|page|gallery|background|editorial|the|an|a|this) )*"
    "(?:images?|photos?|photographs?|photography|pictures?|pics?|vectors?|illustrations?|clip ?art|thumbnails?)",
    "click(?: (?:here|on|image|photo|picture|thumbnail|the|this|to|for|see|view|open|show|get|a|an|full|original|"
    "enlarge|zoom|expand|larger?|bigger|size|version|in|it))*",
    "(?:view|see|show|open|enlarge|zoom)(?: (?:in|full|larger?|bigger|original|the|this|a))*"
    "(?: (?:sized?|version|image|picture|photo|resolution))+",
    "embedded image permalink",
    "no (?:image|photo|picture|caption|description|title|text|alt text)(?: (?:available|provided|found|yet))?",
    "(?:image|photo|picture|caption|description|title) (?:not |un)(?:available|found|provided)",
    "(?:image|photo|picture) (?:coming soon|missing|placeholder|removed|loading|description|caption|title|alt text)",
    "(?:image|photo|picture|featured|title|caption|alt text) (?:credits?|source|via)",
    "untitled|unnamed|no name|placeholder|loading|lazy load|spacer|blank|null|none|n a|undefined|nan|alt|alt text",
    "advertisements?|sponsored|share this|read more|learn more|see more|more info|buy now|shop now|add to cart",
    "all rights reserved|copyright",
)
_NAME_OR_PHRASE = rf"\A(?:{'|'.join(_BARE)})\z"
# What stands between words: all but letters, marks and digits.
WORD_SEPARATORS = r"[^\pL\pM\pN]+"


def caption_column(table: pa.Table) -> pa.ChunkedArray:
    """Column `caption` of `table` as strings; SchemaError if there is none, InputError if it is not text in UTF-8."""
    if "caption" not in table.column_names:
        raise SchemaError(f"a table with column `caption` is needed, this one has {table.column_names}")
    kind = table.schema.field("caption").type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise SchemaError(f"column `caption` has type {kind}, a string is needed")
    try:
        column = table.column("caption").cast(pa.string())
        column.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column `caption` does not hold text in UTF-8: {error}") from error
    return column


def with_columns(table: pa.Table, **columns: pa.Array | pa.ChunkedArray) -> pa.Table:
    """`table` with `columns` added at its end; SchemaError if it has one of them already."""
    present = [name for name in columns if name in table.column_names]
    if present:
        raise SchemaError(f"the table already has {present}: signals only add columns")
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def caption_signals(table: pa.Table) -> pa.Table:
    """`table` with `caption_words`, `caption_chars` int32, `caption_repetition` float32, `caption_boilerplate` bool.

    - `caption_words`: pieces between white space, as `str.split` makes them; `caption_chars`: code points. Both as
      DataComp's basic filter counts them (Gadre et al., 2023; it keeps more than 2 words and more than 5 characters).
      Its image-based filter takes more than 1 word, and words by fastText's tokenizer: there only ASCII white space
      and the zero character separate words, and each line break is a word of its own.
    - `caption_repetition`: 1 − distinct words / words, the share of words that repeat an earlier one; 0 where there
      is no word. Words are those of `str.split`, case-folded, less signs at their ends; signs alone are no words.
      Conceptual Captions (Sharma et al., 2018, section 3) drops captions by such a rate and names no threshold.
      A caption in a script that puts no spaces between words is one word.
    - `caption_boilerplate`: the whole caption is a file name, a number, an address, or an English stock phrase such
      as "click to enlarge picture" or "stock photo". Conceptual Captions crops or drops such texts and names a few of
      them; the rest of the list is ours. Only a caption that is nothing else counts: "stock photo of a red fox" does
      not, and neither does the empty caption.
    """
    column = caption_column(table)
    words: list[int | None] = []
    repetition: list[float | None] = []
    for caption in column.to_pylist():
        # To fold a whole caption changes no white space, and is quicker than to fold its words.
        pieces = None if caption is None else caption.casefold().split()
        words.append(None if pieces is None else len(pieces))
        repetition.append(None if pieces is None else _repetition(pieces))
    return with_columns(
        table,
        caption_words=pa.array(words, pa.int32()),
        caption_chars=pc.utf8_length(column).cast(pa.int32()),
        caption_repetition=pa.array(repetition, pa.float32()),
        caption_boilerplate=_is_boilerplate(column),
    )


def _repetition(pieces: list[str]) -> float:
    words = [piece.strip(_MARKS) for piece in pieces]
    signs = words.count("")
    distinct = len(set(words)) - bool(signs)
    return 1 - distinct / (len(words) - signs) if distinct else 0.0


def _is_boilerplate(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    bare = pc.utf8_trim(pc.replace_substring_regex(pc.utf8_lower(captions), WORD_SEPARATORS, " "), " ")
    return pc.or_(
        pc.match_substring_regex(pc.utf8_trim_whitespace(captions), _NAME_OR_ADDRESS),
        pc.match_substring_regex(bare, _NAME_OR_PHRASE),
    )
