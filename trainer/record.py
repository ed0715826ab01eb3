"""What names a training run, and how one sees that it is finished."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from filters.errors import InputError
from trainer.config import TrainConfig
from trainer.model import CONFIG_NAME, WEIGHTS_NAME
from trainer.start import architecture, weights_digest

RECORD_NAME = "train.json"
# Fields that say where things lie, how fast it goes or what is written beside the weights, not what they become.
_NO_MATTER = {
    "model", "pretrained", "device", "workers", "cache_mb", "log_every", "save_every", "keep_every",
    "evaluate_every", "tensorboard", "wandb", "tars", "scratch",
}  # fmt: skip


def identity(manifest: Path, config: TrainConfig) -> dict[str, Any]:
    """Configuration, architecture and manifest of a run, and the `fingerprint` of them all.

    InputError for a manifest that cannot be read, ModelError for a model.
    """
    record: dict[str, Any] = {
        "config": config.model_dump(mode="json", exclude=_NO_MATTER),
        "is_sequential": config.tars is not None,  # another order of samples
        "architecture": architecture(config),
        "manifest_sha256": manifest_digest(manifest),
        "pretrained_sha256": weights_digest(config),
    }
    text = json.dumps(record, sort_keys=True, default=list)
    record = json.loads(text)
    record["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return record


def fingerprint(manifest: Path, config: TrainConfig) -> str:
    """12 hex characters that name a run: a digest of all that decides its weights."""
    return str(identity(manifest, config)["fingerprint"])


def manifest_digest(manifest: Path) -> str:
    """SHA-256 of the file; InputError if it cannot be read."""
    try:
        with manifest.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{manifest} cannot be read as a manifest: {error.strerror}") from error


def finished(out: Path) -> dict[str, Any] | None:
    """The record of a finished run in `out`, or None; a record that a full disk cut short is none."""
    paths = [out / name for name in (RECORD_NAME, CONFIG_NAME, WEIGHTS_NAME)]
    if not all(path.is_file() for path in paths):
        return None
    try:
        record: dict[str, Any] = json.loads(paths[0].read_text(encoding="utf-8"))
    except ValueError:
        return None
    return record
