"""Load and save open_clip models: one way in for named, pretrained and local models."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.factory import get_model_config, list_pretrained_tags_by_model
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import TextTransformer
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save

from filters.errors import ModelError

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
LOCAL = "local-dir:"
HUB = "hf-hub:"
ClipModel: TypeAlias = Any  # open_clip.CLIP, CustomTextCLIP or CoCa; open_clip ships no types
_PRECISIONS = ("fp32", "fp16", "bf16")
# What open_clip, the hub client and the weight readers raise when a model cannot be had.
LOAD_ERRORS = (RuntimeError, OSError, ValueError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference, with everything that decides its embeddings.

    `preprocess` maps a PIL picture to a float tensor [3, H, W]; `tokenizer` maps texts to int64 tokens
    [N, context_length]. `fingerprint` is 12 hex characters over configuration, weights, preprocessing and precision.
    """

    name: str
    model: ClipModel
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    fingerprint: str
    context_length: int
    embed_dim: int
    precision: str
    device: str


def load_model(
    name: str, pretrained: str | None = None, *, precision: str = "fp32", device: str = "cpu"
) -> LoadedModel:
    """Load any open_clip model in evaluation mode.

    `name` is a built-in name (with `pretrained`: a tag or a weights file), `hf-hub:ORG/REPO`, `local-dir:PATH`, or a
    folder that holds `open_clip_config.json` and weights. Raises ModelError, in one line, when it cannot be had.
    """
    if precision not in _PRECISIONS:
        raise ModelError(f"precision {precision!r} is not known; use one of {', '.join(_PRECISIONS)}")
    spec = resolve_name(name)
    check_name(spec, pretrained)
    quick_gelu = wants_quick_gelu(spec, pretrained)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            spec, pretrained=pretrained, precision=precision, device=device, force_quick_gelu=quick_gelu
        )
        tokenizer = open_clip.get_tokenizer(spec)
        config = get_model_config(spec)
        if quick_gelu:
            config = {**config, "quick_gelu": True}
    except LOAD_ERRORS as error:
        raise ModelError(one_line(name, pretrained, error)) from error
    model.eval()
    return LoadedModel(
        name=name,
        model=model,
        preprocess=preprocess,
        tokenizer=tokenizer,
        fingerprint=fingerprint(model, config, precision),
        context_length=int(tokenizer.context_length),
        embed_dim=int(config["embed_dim"]),
        precision=precision,
        device=device,
    )


def wants_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether known weights were trained with QuickGELU, as OpenAI's were, whatever the name of the model says.

    Under a name without `-quickgelu` open_clip loads them all the same, with a warning, and gives other features.
    """
    return bool(get_pretrained_cfg(name.replace("/", "-"), pretrained or "").get("quick_gelu"))


def text_tower(model: ClipModel) -> ClipModel:
    """The module that holds a model's text transformer: the model itself for open_clip's CLIP, else its `text`."""
    return model if isinstance(model, CLIP) else model.text


def can_truncate(model: ClipModel) -> bool:
    """Whether texts may be cut after the token whose feature is taken, without a change of that feature.

    So it is for open_clip's own causal text transformers that take the feature at the end-of-text token (`argmax` or
    `eos` pooling): no position sees a later one. Towers that look at all tokens, take the last or an appended one
    (CoCa), or mask padding would silently give other features, and so might those of Hugging Face.
    """
    if type(model) not in (CLIP, CustomTextCLIP):
        return False
    tower = text_tower(model)
    if isinstance(tower, TextTransformer) and (tower.cls_emb is not None or tower.use_pad_mask):
        return False
    if not isinstance(tower, CLIP | TextTransformer) or tower.attn_mask is None:
        return False
    sees_later = torch.triu(tower.attn_mask > -torch.inf, diagonal=1).any()
    return pool_type(tower) in ("argmax", "eos") and not bool(sees_later)


def pool_type(tower: ClipModel) -> str:
    """How a `text_tower` of open_clip pools its positions: argmax, eos, first, last or none."""
    return str(tower.text_pool_type if isinstance(tower, CLIP) else tower.pool_type)


def compile_layers(model: ClipModel) -> None:
    """Compile the layers of both transformers in place: half a minute at the first passes, then faster on a GPU.

    What lies between two matrix products (norms, activations, residuals) becomes one kernel. Features are the same
    up to rounding. Towers that are not open_clip's transformers stay as they are.
    """
    for tower in (model.visual, text_tower(model)):
        for block in getattr(getattr(tower, "transformer", None), "resblocks", ()):
            block.compile()


def new_model(config: Path, seed: int, name: str | None = None) -> ClipModel:
    """An untrained model of the architecture in the folder `config` (its `open_clip_config.json`).

    The weights are a function of `seed`; the global random state is left as it was. Raises ModelError, which calls
    the model `name`.
    """
    spec = resolve_name(str(config))
    check_name(spec, None, weights=False)
    try:
        with torch.random.fork_rng(devices=[]), _without_warnings():
            torch.manual_seed(seed)
            model: ClipModel = open_clip.create_model(spec, load_weights=False)
    except LOAD_ERRORS as error:
        raise ModelError(one_line(name or str(config), None, error)) from error
    return model


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without what open_clip says, through the root logger, of a model that has no weights yet: it is meant so."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's `open_clip_config.json`; ModelError if it cannot be read."""
    path = folder / CONFIG_NAME
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a model configuration: {error}") from error
    return config


def save_model(
    model: torch.nn.Module, config: Mapping[str, Any], folder: Path, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` into `folder`, each atomically.

    `config` has the keys `model_cfg` and `preprocess_cfg`. Tensors of two or more dimensions are stored as `dtype`;
    vectors and scalars stay as they are, since running statistics and gains do not bear half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.to(dtype) if value.is_floating_point() and value.ndim >= 2 else value
        for key, value in model.state_dict().items()
    }
    write_weights(state, folder)
    write_config(config, folder)


def write_weights(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write `open_clip_model.safetensors` into `folder`, atomically."""
    temporary = folder / (WEIGHTS_NAME + ".tmp")
    whole = {key: value.contiguous() for key, value in weights.items()}
    temporary.write_bytes(save(whole, metadata={"format": "pt"}))  # save_file would make it private to its owner
    temporary.replace(folder / WEIGHTS_NAME)


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Write `open_clip_config.json` into `folder`, atomically."""
    write_atomically(folder / CONFIG_NAME, json.dumps(config, indent=2, sort_keys=True, default=list) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to a temporary name beside `path` and rename it, so that `path` is never half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def fingerprint(model: torch.nn.Module, config: Mapping[str, Any], precision: str) -> str:
    """12 hex characters of SHA-256 over configuration, preprocessing, precision and every weight."""
    preprocess = getattr(model.visual, "preprocess_cfg", {})
    head = json.dumps([config, preprocess, precision], sort_keys=True, default=list)
    digest = hashlib.sha256(head.encode())
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def resolve_name(name: str) -> str:
    """`name` as open_clip wants it: a folder with a configuration becomes `local-dir:PATH`."""
    if name.startswith((LOCAL, HUB)):
        return name
    is_path = Path(name).is_dir() or name.startswith((".", "/", "~"))
    return f"{LOCAL}{Path(name).expanduser()}" if is_path else name


def check_name(spec: str, pretrained: str | None, *, weights: bool = True) -> None:
    """Name what is missing before open_clip is asked; ModelError."""
    if spec.startswith(HUB):
        return
    if spec.startswith(LOCAL):
        folder = Path(spec.removeprefix(LOCAL))
        if not (folder / CONFIG_NAME).is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {CONFIG_NAME}")
        if weights and not any(p.suffix in (".safetensors", ".bin", ".pth") for p in folder.iterdir()):
            raise ModelError(f"{folder} has no weights: put {WEIGHTS_NAME} beside {CONFIG_NAME}")
        return
    known = open_clip.list_models()
    if spec.replace("/", "-") not in known:
        close = difflib.get_close_matches(spec, known, n=3, cutoff=0.4)
        hint = f"closest: {', '.join(close)}" if close else "see open_clip.list_models()"
        raise ModelError(f"model {spec!r} is neither an open_clip name nor a folder; {hint}")
    tags = list_pretrained_tags_by_model(spec.replace("/", "-"))
    if weights and (pretrained is None or (pretrained not in tags and not Path(pretrained).is_file())):
        asked = "needs `pretrained`" if pretrained is None else f"has no pretrained weights {pretrained!r}"
        raise ModelError(f"model {spec!r} {asked}: a weights file, or one of {', '.join(tags) or 'no known tags'}")


def one_line(name: str, pretrained: str | None, error: BaseException) -> str:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 300 else reason[:300] + " …"
    asked = name if pretrained is None else f"{name} with weights {pretrained}"
    return f"model {asked} cannot be loaded ({type(error).__name__}): {reason}"
