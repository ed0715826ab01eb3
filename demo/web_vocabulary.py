"""The corpus's concepts as the plan needs them: words for captions, and which style draws which concept."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from demo.captions import Words
from demo.corpus import EVAL_STYLES, TRAIN_STYLES, load_concepts, load_style


@dataclass(frozen=True)
class Vocabulary:
    """Concept slugs in sorted order throughout, so that draws from them depend on the seed only."""

    name: dict[str, str]
    keywords: dict[str, list[str]]
    group: dict[str, str]
    subgroup: dict[str, str]
    foreign: dict[str, dict[str, str]]
    drawn_in: dict[str, list[str]]

    def words(self, concepts: list[str]) -> Words:
        """What a caption of a picture of these concepts, main first, may say."""
        return Words([self.name[c] for c in concepts], self.keywords[concepts[0]])

    def unlike(self, concepts: list[str], rng: np.random.Generator) -> list[str]:
        """As many concepts of other subgroups, none of whose names is part of a pictured one's or holds it."""
        everything = sorted(self.name)
        chosen: list[str] = []
        while len(chosen) < len(concepts):
            other = everything[int(rng.integers(len(everything)))]
            if other not in chosen and all(self._differ(other, c) for c in concepts):
                chosen.append(other)
        return chosen

    def _differ(self, a: str, b: str) -> bool:
        name_a, name_b = self.name[a], self.name[b]
        return self.subgroup[a] != self.subgroup[b] and name_a not in name_b and name_b not in name_a


@functools.lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """The vocabulary of the committed corpus."""
    rows = load_concepts().to_pylist()
    return Vocabulary(
        name={r["concept"]: r["name"] for r in rows},
        keywords={r["concept"]: list(r["keywords"]) for r in rows},
        group={r["concept"]: r["group"] for r in rows},
        subgroup={r["concept"]: r["subgroup"] for r in rows},
        foreign={r["concept"]: {k: v for k, v in r["names"] if v.lower() != r["name"]} for r in rows},
        drawn_in={s: sorted(load_style(s)["concept"].to_pylist()) for s in (*TRAIN_STYLES, *EVAL_STYLES)},
    )
