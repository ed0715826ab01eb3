"""The mixtures of the demo: the two of `configs/mixes/`, each source alone, and one by presets."""

from __future__ import annotations

from pathlib import Path

from demo.web_record import SOURCES
from pipelines.config import load_config
from pipelines.mixture import MixConfig, MixSource

CONFIGS = Path(__file__).parent.parent / "configs"
FULL_ROWS = 6000
ALONE = 750  # samples of a source by itself: what each has left after the rules, with a margin for other seeds
# One model a mixture of these; neither those of the user nor the one by presets are trained.
MODELS = ("even", "filtered", *(f"only-{source}" for source in SOURCES))


def mixtures(seed: int, rows: int, score: str) -> list[MixConfig]:
    """All mixtures of a demo of `rows` records; `score` is the column of its scoring model.

    The one by presets takes DataComp's image-based filter and no blocked captions, and of what is left the best part
    over all sources, so that its table shows how one threshold shifts their shares.
    """
    mixes = [
        load_config(MixConfig, str(CONFIGS / "mixes" / name), [("seed", seed)])
        for name in ("even.yaml", "filtered.yaml")
    ]
    mixes += [
        MixConfig(name=f"only-{source}", seed=seed, total=ALONE, sources=[MixSource(source=source)])
        for source in SOURCES
    ]
    mixes.append(MixConfig(
        name="presets", seed=seed, total=FULL_ROWS, on_shortage="truncate",
        where="image_based(samples) AND NOT caption_blocked", top_fraction=0.7, top_scope="global", top_score=score,
        sources=[MixSource(source=source) for source in SOURCES],
    ))  # fmt: skip
    # A smaller demo has smaller mixtures in proportion.
    return [mix.model_copy(update={"total": mix.total * rows // FULL_ROWS}) for mix in mixes]
