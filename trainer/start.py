"""The model that a training run starts from: an architecture, and weights that are new or known."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
import torch
from open_clip.factory import get_model_config, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg, image_transform_v2

from filters.errors import ModelError
from trainer.config import TrainConfig
from trainer.losses import initial_logits
from trainer.model import (
    LOAD_ERRORS,
    LOCAL,
    WEIGHTS_NAME,
    ClipModel,
    LoadedModel,
    check_name,
    new_model,
    one_line,
    read_config,
    resolve_name,
    wants_quick_gelu,
    write_config,
)

Tokenizer: TypeAlias = Any  # open_clip's: called with texts it gives int64 [N, context_length]


@dataclass(frozen=True)
class Start:
    """A model before its first step, its `open_clip_config.json` (`architecture`) and its tokenizer."""

    model: ClipModel
    architecture: dict[str, Any]
    tokenizer: Tokenizer


def architecture(config: TrainConfig) -> dict[str, Any]:
    """The content of `open_clip_config.json` for `config.model`: keys `model_cfg` and `preprocess_cfg`.

    SigLIP's loss needs a bias beside the temperature; both start where its paper has them (Zhai et al. 2023, §3.1)
    unless the architecture says otherwise. Raises ModelError.
    """
    spec = resolve_name(config.model)
    check_name(spec, None, weights=False)
    if spec.startswith(LOCAL):
        found = read_config(Path(spec.removeprefix(LOCAL)))
        if not isinstance(found.get("model_cfg"), dict):
            raise ModelError(f"{config.model}: its open_clip_config.json has no `model_cfg`")
    else:
        found = _built_in(spec, config.pretrained)
    return {**found, "model_cfg": {**initial_logits(config.loss), **found["model_cfg"]}}


def start(config: TrainConfig) -> Start:
    """The model that `config` trains, in fp32 on the CPU, its weights a function of the configuration alone.

    Without `config.pretrained` they are drawn from `config.seed`; the global random state is left as it was. With it
    they are a tag's of open_clip, a model folder's, or those of a weights file or an `epoch_N.pt` of open_clip's
    trainer. Raises ModelError.
    """
    found = architecture(config)
    try:
        # Of all that open_clip reads, only a folder holds a whole configuration.
        with tempfile.TemporaryDirectory(prefix="headwater-model-") as folder:
            write_config(found, Path(folder))
            model = new_model(Path(folder), config.seed, config.model)
        if config.pretrained is not None:
            open_clip.load_checkpoint(model, str(weights_file(config)), strict=True, weights_only=True)
        tokenizer = open_clip.get_tokenizer(resolve_name(config.model))
    except LOAD_ERRORS as error:
        raise ModelError(one_line(config.model, config.pretrained, error)) from error
    return Start(model, found, tokenizer)


def for_inference(began: Start, model: ClipModel, device: torch.device) -> LoadedModel:
    """A model under training as one that embeds pictures and texts; its fingerprint is empty, as it still changes."""
    return LoadedModel(
        name="under training",
        model=model,
        preprocess=image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False),
        tokenizer=began.tokenizer,
        fingerprint="",
        context_length=int(began.tokenizer.context_length),
        embed_dim=int(began.architecture["model_cfg"]["embed_dim"]),
        precision="fp32",
        device=str(device),
    )


def weights_file(config: TrainConfig) -> Path:
    """The file that holds the weights of `config.pretrained`; ModelError if there is none."""
    name = str(config.pretrained)
    path = Path(name.removeprefix(LOCAL)).expanduser()
    if path.is_dir():
        path = path / WEIGHTS_NAME
    if path.is_file():
        return path
    tags = list_pretrained_tags_by_model(config.model.replace("/", "-"))
    if name not in tags:
        known = f"one of {', '.join(tags)}" if tags else "this model has no known tags"
        raise ModelError(f"pretrained weights {name!r}: no such file or folder, nor a tag of {config.model}; {known}")
    try:
        found = open_clip.download_pretrained(open_clip.get_pretrained_cfg(config.model.replace("/", "-"), name))
    except LOAD_ERRORS as error:
        raise ModelError(one_line(config.model, name, error)) from error
    return Path(found)


def weights_digest(config: TrainConfig) -> str | None:
    """SHA-256 of the weights that a run starts from, or None for new ones."""
    if config.pretrained is None:
        return None
    with weights_file(config).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _built_in(name: str, pretrained: str | None) -> dict[str, Any]:
    model_cfg = dict(get_model_config(name.replace("/", "-")))
    if wants_quick_gelu(name, pretrained):
        model_cfg["quick_gelu"] = True
    size = model_cfg["vision_cfg"]["image_size"]
    known = open_clip.get_pretrained_cfg(name.replace("/", "-"), pretrained or "")
    preprocess = PreprocessCfg(size=size)
    changes = {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode") if known.get(key)}
    return {"model_cfg": model_cfg, "preprocess_cfg": {**vars(preprocess), **changes}}
