"""What may not change while a study lasts: recipe, sources, evaluation. More runs may be asked for at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.halves import half_of
from evaluation.tasks import Task
from filters.errors import ConfigError
from pipelines.store.fingerprint import fingerprint
from pipelines.study_config import StudyConfig
from pipelines.study_folder import StudyFolder
from pipelines.study_guard import task_digest
from pipelines.study_matrix import RunSpec, Supply
from trainer.start import architecture

FILE = "study.json"
_FIXED = {"tasks", "reference", "ways", "families", "sources", "where", "rates", "epochs", "barely"}
# Where the architecture lies, and what a run takes and leaves beside its weights, is all the same; the learning rate
# and the seed are each run's own.
_FREE = {
    "model", "pretrained", "lr", "seed", "device", "workers", "cache_mb", "log_every", "save_every", "keep_every",
    "evaluate_every", "tensorboard", "wandb", "scratch",
}  # fmt: skip


def settings_of(config: StudyConfig, found: Supply, tasks: Sequence[Task], snapshot: str) -> dict[str, Any]:
    """The settings by name, as JSON has them; `snapshot` is the catalog's."""
    return {
        **config.model_dump(mode="json", include=_FIXED),
        "train": config.train.model_dump(mode="json", exclude=_FREE),
        "lr": None if config.rates else config.train.lr,
        "architecture": fingerprint(architecture(config.train)),
        "pretrained": config.train.pretrained,
        "samples": found.there,
        "evaluation": task_digest(tasks),
        "catalog": snapshot,
    }  # fmt: skip


def settle(folder: StudyFolder, settings: dict[str, Any], *, write: bool = True) -> str:
    """Store the settings at a study's first start; their fingerprint.

    ConfigError, naming what is not as it was, where the study was begun with others.
    """
    if folder.exists(FILE):
        before = folder.read(FILE)
        if changed := sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key)):
            raise ConfigError(
                f"{folder.local(FILE)}: the study was begun with another {', '.join(changed)}; undo the change, or "
                "give this one a `folder` of its own"
            )
    elif write:
        folder.write(settings, FILE)
    return fingerprint(settings)


def write_halves(folder: StudyFolder, tasks: Sequence[Task]) -> None:
    """Publish which concepts are for fitting and choosing, and which for reporting."""
    names = sorted({name for task in tasks for name in task.classnames})
    folder.write(
        {half: [name for name in names if half_of(name) == half] for half in ("fit", "report")}, "concepts.json"
    )


def mark_of(spec: RunSpec, rate: float, settings: str) -> str:
    """Fingerprint of all that decides a run: its specification, its learning rate, and the study's settings."""
    return fingerprint(spec.model_dump(mode="json"), rate, settings)
