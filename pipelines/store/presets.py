"""Published filters as SQL macros over a row: `SELECT count(*) FROM samples WHERE datacomp_basic(samples)`.

The one place that holds their thresholds. A preset is true or false for each row and never null: what is not known
is not met, unless its meaning says otherwise. One whose signals the catalog lacks raises an error that names the
command to run, for an empty answer would pass for a finding. `python -m pipelines.store.presets` prints the section
of docs/filters.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from filters.sampling import sample_order_sql
from pipelines.store.fingerprint import fingerprint

B32, L14 = "clip_b32_similarity_score", "clip_l14_similarity_score"
_CAPTION = ("caption_words", "caption_chars")
_DATACOMP = "DataComp (Gadre et al., 2023, arXiv 2304.14108)"

# What writes a column that some preset needs.
_WRITTEN_BY = {
    B32: "headwater score --model ViT-B-32 --pretrained openai",
    L14: "headwater score --model ViT-L-14 --pretrained openai",
    "text_based": "headwater signals --classes FILE",
    "image_based": "headwater signals --clusters N --reference SET",
    "entries": "headwater signals --entries FILE",
    # Shards of an earlier version lack them.
    "entropy": "headwater download --overwrite",
    "contrast": "headwater download --overwrite",
}


@dataclass(frozen=True, slots=True)
class Preset:
    """One macro: how it is called, its SQL over the row `s`, the columns it needs, its meaning and its source."""

    name: str
    parameters: str
    body: str
    needs: tuple[str, ...]
    meaning: str
    source: str

    @property
    def signature(self) -> str:
        """How it is called in a query over `samples`, with the parameters that may be left out."""
        return f"{self.name}({', '.join(self._arguments)})"

    @property
    def call(self) -> str:
        """The signature without the parameters that may be left out."""
        return f"{self.name}({', '.join(name for name in self._arguments if ':=' not in name)})"

    @property
    def _arguments(self) -> list[str]:
        return ["samples" if name == "s" else name for name in self.parameters.split(", ")]


def _sure(condition: str) -> str:
    """The condition, false where it would be null."""
    return f"coalesce({condition}, false)"


PRESETS = (
    Preset(
        "laion400m",
        "s",
        _sure(f"s.{B32} >= 0.3::FLOAT AND s.caption_chars >= 5 AND coalesce(s.original_bytes >= 5000, true)"),
        (B32, "caption_chars"),
        "cosine by ViT-B/32 of at least 0.3, a caption of at least 5 characters, and a picture of at least 5 KB "
        "(5,000 bytes as downloaded, as its crawler counts; an unknown length counts as met). LAION-400M is "
        "English by construction, and language is none of its published filters: add `language = 'en'` for other "
        "sources",
        "LAION-400M (Schuhmann et al., 2021, arXiv 2111.02114)",
    ),
    Preset(
        "laion2b",
        "s",
        _sure(f"_half(s.{B32}) >= 0.28 AND s.language = 'en'"),
        (B32, "language"),
        "an English caption, and a cosine by ViT-B/32 of at least 0.28, rounded to fp16 as DataComp's scores are; "
        "the language is by fastText, CLD3 there",
        "LAION-2B-en of LAION-5B (Schuhmann et al., 2022, arXiv 2210.08402), as DataComp's baseline `laion2b` has it",
    ),
    Preset(
        "datacomp_basic",
        "s",
        _sure(
            "s.language = 'en' AND s.caption_words > 2 AND s.caption_chars > 5 AND s.original_width >= 200 AND "
            "s.original_height >= 200 AND s.original_width <= 3.0 * s.original_height AND "
            "s.original_height <= 3.0 * s.original_width"
        ),
        ("language", *_CAPTION),
        "an English caption of more than 2 words and more than 5 characters, and a picture whose shorter side has at "
        "least 200 pixels and whose longer side is at most 3 times as long, as downloaded",
        f"{_DATACOMP}, baseline `basic_filter`",
    ),
    Preset(
        "text_based",
        "s",
        _sure("s.language = 'en' AND s.text_based"),
        ("language", "text_based"),
        "an English caption that names a class of the class list; DataComp's list is ImageNet-21k by WordNet synsets",
        f"{_DATACOMP}, baseline `text_based`",
    ),
    Preset(
        "image_based",
        "s",
        _sure("s.language = 'en' AND _tokens(s.caption) > 1 AND s.caption_chars > 5 AND s.image_based"),
        ("language", "caption_chars", "image_based"),
        "an English caption of more than 1 word and more than 5 characters (words as fastText's tokenizer finds "
        "them: between ASCII white space, each line break one more), and a picture whose cluster is the nearest of "
        "some reference picture; DataComp's are those of ImageNet-1k, by 100,000 clusters of L/14 embeddings",
        f"{_DATACOMP}, baseline `image_based`",
    ),
    Preset(
        "clip_top",
        f"s, fraction, score := '{L14}'",
        _sure("_half(_score(s, score)) >= _threshold(_fraction(fraction), score)"),
        (),
        "one of the best `fraction` of all samples with a score, over all sources: at least the score at position "
        "int(n × fraction) from the top, counted from 0, so that ties stay, of scores rounded to fp16 as DataComp's "
        "are; this changes the ratio of sources. Any score column may be named",
        f"{_DATACOMP}, baseline `clip_score` (`--fraction 0.3 --arch l14`)",
    ),
    Preset(
        "clip_top_in_source",
        f"s, fraction, score := '{L14}'",
        _sure("_half(_score(s, score)) >= _thresholds(_fraction(fraction), score)[s.source::VARCHAR]"),
        (),
        "the same inside each source, so that each keeps its share",
        f"{_DATACOMP}, the rule of `clip_score`, for each source",
    ),
    Preset(
        "image_and_clip",
        f"s, fraction := 0.3, score := '{L14}'",
        "image_based(s) AND clip_top(s, fraction, score := score)",
        ("language", "caption_chars", "image_based"),
        "image_based, and clip_top with 0.3 of all samples: what DataComp-1B was made with",
        f"{_DATACOMP}, baseline `image_based_intersect_clip_score`",
    ),
    Preset(
        "large_enough",
        "s, side := 200",
        _sure("s.original_width >= side AND s.original_height >= side"),
        (),
        "a picture whose shorter side has at least `side` pixels, as downloaded",
        f"{_DATACOMP}, the part of `basic_filter`",
    ),
    Preset(
        "not_elongated",
        "s, ratio := 3.0",
        _sure("s.original_width <= ratio * s.original_height AND s.original_height <= ratio * s.original_width"),
        (),
        "a picture whose longer side is at most `ratio` times as long as the other, as downloaded",
        f"{_DATACOMP}, the part of `basic_filter`",
    ),
    Preset(
        "not_blank",
        "s, entropy := 1.5, contrast := 0.003",
        _sure("s.entropy >= entropy OR s.contrast >= contrast"),
        ("entropy", "contrast"),
        "a picture whose grey levels have at least `entropy` bits or a standard deviation of at least `contrast`: "
        "one colour with the noise of a JPEG has neither, ten black pixels in a million white ones are enough",
        "Headwater; no published threshold",
    ),
    Preset(
        "not_low_entropy",
        "s, entropy := 3.0",
        _sure("s.entropy >= entropy"),
        ("entropy",),
        "a picture whose grey levels have at least `entropy` bits: flat drawings and most placeholders have less",
        "Headwater; no published threshold",
    ),
    Preset(
        "not_animated",
        "s",
        "coalesce(s.frames = 1, true)",
        (),
        "a picture of one frame; an unknown number, as adopted shards have it, counts as one",
        "Headwater",
    ),
    Preset(
        "metaclip_probability",
        "entries, t, draws := 'each'",
        "coalesce(CASE draws WHEN 'best' THEN list_max(_odds(entries, t)) "
        "WHEN 'each' THEN 1 - list_aggregate(list_transform(_odds(entries, t), lambda p: 1 - p), 'product') "
        "ELSE error('metaclip_probability: draws is best or each') END, 0)",
        ("entries",),
        "how likely balancing keeps a sample, 0 where no entry matched: the probability that one draw at "
        "min(1, t / matches) for each of its entries keeps it, or with draws := 'best' the largest of these alone; t "
        "was 20,000 for 400 M pairs, 170,000 for 2.5 B. To draw: "
        "`keep(uid_lo, 0, metaclip_probability(entries, 20000))`",
        "MetaCLIP (Xu et al., 2023, arXiv 2309.16671), Algorithm 1",
    ),
    Preset(
        "keep",
        "uid_lo, seed, p",
        # The 53 bits that a double holds, so that p = 1 keeps everything and p = 0 nothing.
        _sure(
            "(sample_order(uid_lo, ('0x' || sha256('keep' || chr(31) || seed)[:16])::UBIGINT) >> 11)::DOUBLE "
            "* (1 / 9007199254740992)::DOUBLE < p"
        ),
        (),
        "true for a share p of the samples, the same ones for the same seed; those kept at a smaller p are among "
        "those kept at a larger one",
        "Headwater's drawing order",
    ),
)


def macros(present: Collection[str], scores: Sequence[str]) -> list[str]:
    """The statements that create every preset in a catalog.

    `present` are the columns of `samples` that hold anything, `scores` those of them that hold a CLIP score.
    """
    statements = [sample_order_sql(), *_helpers(scores)]
    for preset in PRESETS:
        lacking = missing(preset, present)
        body = f"error({literal(f'{preset.name} {hint(lacking)}')})" if lacking else preset.body
        statements.append(f"CREATE OR REPLACE MACRO {preset.name}({preset.parameters}) AS {body}")
        comment = f"{preset.meaning}. Source: {preset.source}"
        statements.append(f"COMMENT ON MACRO {preset.name} IS {literal(comment)}")
    return statements


def missing(preset: Preset, present: Collection[str]) -> list[str]:
    """The columns that a preset needs and that are not in `present`."""
    return [name for name in preset.needs if name not in present]


def lacking(preset: Preset, present: Collection[str]) -> list[str]:
    """The columns that its plain call needs and that are not in `present`: the score that it has by default too."""
    by_default = [L14] if f"score := '{L14}'" in preset.parameters and L14 not in present else []
    return missing(preset, present) + by_default


def hint(columns: Sequence[str]) -> str:
    """What to run to have `columns`: the end of a sentence whose subject is the preset."""
    commands = list(dict.fromkeys(_WRITTEN_BY.get(name, "headwater signals") for name in columns))
    longest = [c for c in commands if not any(other != c and other.startswith(c) for other in commands)]
    run = " and ".join(f"`{command}`" for command in longest)
    what = f"column{'s' * (len(columns) > 1)} {', '.join(columns)}"
    return f"needs the {what}: run {run}, then `headwater index`"


def digest() -> str:
    """Fingerprint of all definitions: a mixture follows from them too."""
    return fingerprint([(preset.name, preset.parameters, preset.body) for preset in PRESETS], _helpers([]))


def section() -> str:
    """The section of docs/filters.md."""
    lines = [_INTRO]
    for preset in PRESETS:
        needs = f" Needs {', '.join(f'`{name}`' for name in preset.needs)}." if preset.needs else ""
        text = f"- **`{preset.signature}`**: {preset.meaning}. Source: {preset.source}.{needs}"
        lines += textwrap.wrap(text, 140, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


_INTRO = """## Presets

Published filters as SQL macros over a row of `samples`, in `headwater sql` and in a mixture's `where`:

    headwater sql --root data "SELECT count(*) FROM samples WHERE datacomp_basic(samples)"

A preset is true or false for each row, never null. One whose signals the catalog lacks is an error that names the
command to run. Under another name of the table (`FROM samples AS a`) it takes that name: `laion2b(a)`.
`headwater sql "FROM presets"` lists them and what each still lacks. Page and macros are made from
`pipelines/store/presets.py`.
"""


def _helpers(scores: Sequence[str]) -> list[str]:
    """The macros that presets are made of. DuckDB cannot name a column by a parameter, hence the CASE over scores."""
    cases = " ".join(f"WHEN {literal(name)} THEN s.{quoted(name)}::DOUBLE" for name in scores)
    others = f"; or name one that is there: {', '.join(scores)}" if scores else ""
    advice = literal(f": run `headwater score` with its model, then `headwater index`{others}")
    unknown = f"error('no score column ' || score || {advice})"
    position = "greatest(0, least(floor(count(x) * fraction)::BIGINT, count(x) - 1))"
    pool = "SELECT pool.source::VARCHAR AS source, _half(_score(pool, score)) AS x FROM samples AS pool"
    return [
        # The last place of an fp16 number is ten places below its first; below 2^-14 it stays where it is there.
        "CREATE OR REPLACE MACRO _place(x) AS pow(2, floor(log2(greatest(abs(x), pow(2, -14)))) - 10)",
        "CREATE OR REPLACE MACRO _half(x) AS round_even(x::DOUBLE / _place(x::DOUBLE), 0) * _place(x::DOUBLE)",
        # fastText's tokenizer: white space of ASCII and the zero character separate words, a line break is a word.
        r"CREATE OR REPLACE MACRO _tokens(caption) AS "
        r"len(regexp_extract_all(caption, '\n|[^ \n\r\t\v\f\x00]+'))",
        f"CREATE OR REPLACE MACRO _score(s, score) AS CASE score {cases or 'WHEN NULL THEN NULL::DOUBLE'} "
        f"ELSE {unknown} END",
        "CREATE OR REPLACE MACRO _fraction(fraction) AS CASE WHEN fraction BETWEEN 0 AND 1 THEN fraction::DOUBLE "
        "ELSE error('fraction must be from 0 to 1') END",
        f"CREATE OR REPLACE MACRO _threshold(fraction, score) AS (SELECT x FROM ({pool}) WHERE x IS NOT NULL "
        f"ORDER BY x DESC LIMIT 1 OFFSET (SELECT {position} FROM ({pool})))",
        "CREATE OR REPLACE MACRO _thresholds(fraction, score) AS (SELECT map(list(source), list(threshold)) FROM "
        f"(SELECT source, list(x ORDER BY x DESC)[1 + {position}] AS threshold FROM ({pool}) "
        "WHERE x IS NOT NULL GROUP BY source))",
        "CREATE OR REPLACE MACRO _positive(t) AS CASE WHEN t > 0 THEN t::DOUBLE "
        "ELSE error('metaclip_probability: t must be more than 0') END",
        # An entry's number is its place in the list of counts; 0 is no place, and nothing comes of it.
        "CREATE OR REPLACE MACRO _odds(entries, t) AS list_transform(list_select("
        "(SELECT list(matches ORDER BY entry) FROM entries), list_transform(entries, lambda e: coalesce(e + 1, 0))), "
        "lambda n: CASE WHEN n > _positive(t) THEN _positive(t) / n WHEN n IS NOT NULL THEN 1 END)",
    ]


def literal(text: str) -> str:
    """The text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """The name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


if __name__ == "__main__":
    print(section(), end="")
