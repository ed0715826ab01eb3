"""Train a CLIP model on a mixture."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import open_clip
import torch
from open_clip.loss import ClipLoss

from filters.errors import HeadwaterError, InputError
from trainer.batch import Batch
from trainer.config import TrainConfig
from trainer.dataset import Fit, MixtureDataset
from trainer.loader import Loader
from trainer.model import CONFIG_NAME, WEIGHTS_NAME, ClipModel, new_model, read_config, save_model, write_atomically

RECORD_NAME = "train.json"
METRICS_NAME = "metrics.jsonl"
_MAX_LOGIT_SCALE = math.log(100)  # the bound of the CLIP paper (Radford et al. 2021, §2.5)


def train(manifest: Path, shards_root: Path, out: Path, config: TrainConfig) -> dict[str, Any]:
    """Train `config.model` on the manifest's pairs and write a model folder that open_clip loads as `local-dir:`.

    `out` gets `open_clip_config.json`, `open_clip_model.safetensors`, `metrics.jsonl` and, last, `train.json`, whose
    content is returned. A folder whose `train.json` has the same fingerprint (configuration, architecture and
    manifest) is returned as it is. Same fingerprint, threads and library versions: the same weights, bit for bit.

    Raises ModelError, InputError, SchemaError or ShardError for what it is given, HeadwaterError when the loss is no
    longer finite.
    """
    record = _identity(manifest, config)
    done = finished(out)
    if done is not None and done.get("fingerprint") == record["fingerprint"]:
        return done
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD_NAME).unlink(missing_ok=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model, result = _run(manifest, shards_root, out, config)
    finally:
        torch.set_num_threads(threads)
    save_model(model, record["architecture"], out)
    record.update(result)
    write_atomically(out / RECORD_NAME, json.dumps(record, indent=2, sort_keys=True) + "\n")
    return record


def fingerprint(manifest: Path, config: TrainConfig) -> str:
    """12 hex characters that name a run: a digest of configuration, architecture and manifest."""
    return str(_identity(manifest, config)["fingerprint"])


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


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up over the first `config.warmup` of the steps, then a half cosine to 0."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def parameter_groups(model: torch.nn.Module, wd: float) -> list[dict[str, Any]]:
    """Two groups for AdamW: gains, biases and the logit scale do not decay, all others do (as open_clip has it)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    exempt = {name for name, p in named if p.ndim < 2 or "logit_scale" in name}
    return [
        {"params": [p for name, p in named if name in exempt], "weight_decay": 0.0},
        {"params": [p for name, p in named if name not in exempt], "weight_decay": wd},
    ]


def run_steps(model: ClipModel, batches: Iterator[Batch], steps: int, config: TrainConfig, metrics: TextIO) -> float:
    """Train `model` in place for `steps` batches; the mean loss over the last tenth of them.

    Writes a JSON line to `metrics` every `config.log_every` steps. Raises HeadwaterError for a loss not finite.
    """
    step, losses = _Step(model, config), []
    for number, batch in zip(range(steps), batches, strict=False):
        lr = learning_rate(number, steps, config)
        losses.append(step(batch, lr))
        if not math.isfinite(losses[-1]):
            raise HeadwaterError(
                f"training stopped at step {number + 1} of {steps}: the loss is {losses[-1]}; lower `lr`"
            )
        if (number + 1) % config.log_every == 0 or number + 1 == steps:
            line = {
                "step": number + 1,
                "samples_seen": (number + 1) * config.batch,
                "loss": losses[-1],
                "lr": lr,
                "logit_scale": float(model.logit_scale.detach().exp()),
            }
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _identity(manifest: Path, config: TrainConfig) -> dict[str, Any]:
    try:
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{manifest} cannot be read as a manifest: {error.strerror}") from error
    record: dict[str, Any] = {
        "config": config.model_dump(mode="json", exclude={"model"}),  # its content counts, not its place
        "architecture": read_config(Path(config.model)),
        "manifest_sha256": digest,
    }
    record["fingerprint"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    return record


class _Step:
    """Model and optimiser of one run; calling it makes one step and gives the loss."""

    def __init__(self, model: ClipModel, config: TrainConfig) -> None:
        # convolutions on the CPU are about 1.6 times as fast with channels last
        self.model = model.train().to(memory_format=torch.channels_last)
        self.config = config
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.wd), lr=config.lr, betas=(0.9, config.beta2), eps=1e-6, fused=True
        )
        self.loss = ClipLoss()
        preprocess = model.visual.preprocess_cfg
        self.mean = torch.tensor(preprocess["mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocess["std"]).view(1, 3, 1, 1)

    def __call__(self, batch: Batch, lr: float) -> float:
        images = (batch.images.float().div_(255) - self.mean) / self.std
        images = images.contiguous(memory_format=torch.channels_last)
        image_features, text_features, scale = self.model(images, batch.tokens)
        loss = self.loss(image_features, text_features, scale)
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, _MAX_LOGIT_SCALE)
        return float(loss.detach())


def _run(manifest: Path, shards_root: Path, out: Path, config: TrainConfig) -> tuple[ClipModel, dict[str, Any]]:
    model = new_model(Path(config.model), config.seed)
    steps = max(1, config.samples_seen // config.batch)
    side = model.visual.preprocess_cfg["size"]
    side = side if isinstance(side, int) else side[0]
    dataset = MixtureDataset(
        manifest,
        shards_root,
        view=Fit(side),
        tokenize=open_clip.get_tokenizer(f"local-dir:{config.model}"),
        size=side,
        seed=config.seed,
        augmentation=config.augment,
        cache_bytes=config.cache_mb << 20,
    )
    with (
        Loader(
            dataset, config.batch, workers=config.workers, threads=config.threads, batch_mix=config.batch_mix
        ) as loader,
        (out / METRICS_NAME).open("w", encoding="utf-8") as metrics,
    ):
        loss = run_steps(model, loader, steps, config, metrics)
    return model, {
        "steps": steps,
        "samples_seen": steps * config.batch,
        "pairs": len(dataset),
        "decode_errors": loader.decode_errors.total(),
        "final_loss": round(loss, 6),
    }
