"""The demo's evaluation sets: the five held-out styles in CLIP_benchmark's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from demo.corpus import EVAL_STYLES, STYLES, load_concepts, load_style
from evaluation.tasks import Task, write_task

REFERENCE = "emojione-v1"
TEMPLATES = ["a picture of {c}", "{c} emoji", "an icon of {c}", "{c}"]
LABELS = {
    "emojione-v1": "EmojiOne 1",
    "noto-v1": "Noto 1",
    "fxemoji": "FxEmoji",
    "emojione-monotone": "EmojiTwo mono",
    "fluent-emoji-high-contrast": "Fluent contrast",
}


def write_eval_sets(folder: Path) -> list[str]:
    """Write each held-out style under `folder` unless it is there; the names of those that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    names = dict(zip(*(load_concepts()[c].to_pylist() for c in ("concept", "name")), strict=True))
    written = []
    for style in EVAL_STYLES:
        if (folder / style).exists():
            continue
        table = load_style(style)
        concepts = table["concept"].to_pylist()
        task = Task(
            name=style,
            images=table["image"].to_pylist(),
            labels=np.arange(len(concepts), dtype=np.int64),
            classnames=[names[concept] for concept in concepts],
            templates=TEMPLATES,
            keys=concepts,
            family=STYLES[style].family,
        )
        write_task(folder / style, task)
        written.append(style)
    return written
