"""Pairs to pictures that show what a model's match rests on: where in the picture, and on which words (M2IB).

headwater attribute --root data --model ViT-B-32 --pretrained openai --where "clip_score > 0.35" --limit 20
headwater attribute --model ViT-B-32 --pretrained openai --folder holiday --out holiday-maps
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator

from evaluation.attribution_metrics import content, cosines
from evaluation.m2ib import attribute
from evaluation.m2ib_towers import Side, check_layer, shown_layer
from evaluation.overlays import Piece, pair_png, pieces, rescaled
from filters.errors import BudgetExceeded, InputError
from pipelines.attributed import Pair, find_pairs, read_pictures
from pipelines.config import JobConfig
from pipelines.engine import Work, map_shards, record
from pipelines.job import Account, job_main, say
from pipelines.store.fingerprint import fingerprint
from pipelines.store.root import Root
from trainer.images import Preprocess, split_preprocess
from trainer.model import LoadedModel, check_name, load_model, resolve_name

FOLDER = "attributions"
_FORM = 1  # of what is written; another number, and pairs are attributed again
FAILED = "failed_to_decode"


class AttributeConfig(JobConfig):
    """Which pairs, which model, and how the maps are found."""

    model: str = Field(description="open_clip name, or the folder of a model (open_clip_config.json and weights)")
    pretrained: str | None = Field(None, description="pretrained tag or weights file for an open_clip name")
    uids: list[str] = Field([], description="uids of samples, or their first characters")
    where: str | None = Field(None, description="condition over a row of `samples`, such as clip_score > 0.35")
    folder: str | None = Field(
        None, description="instead of a data root's samples: a folder of pictures, each caption in a .txt beside it"
    )
    limit: int = Field(10, ge=1, description="most pairs, in the order of their uids or file names")
    side: Literal["both", "image", "text"] = Field("both", description="what to attribute the match to")
    image_layer: int | None = Field(
        None, description="block after which the bottleneck sits, from 0 (-1: before the first); 9 of 12 if null"
    )
    text_layer: int | None = Field(None, description="the same of the text tower")
    beta: float = Field(0.1, ge=0, description="weight of compression; larger ones leave less of the map")
    steps: int = Field(10, ge=1, description="steps of the search")
    samples: int = Field(10, ge=1, description="noisy copies of a pair in each step")
    lr: float = Field(1.0, gt=0, description="learning rate of the search")
    seed: int = Field(0, description="of the noise; a pair's does not depend on the pairs beside it")
    out: str | None = Field(None, description="folder to write to; <root>/attributions/<fingerprint> if null")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="precision of the model")
    device: str = Field("auto", description="cpu, cuda, or auto: cuda where the worker sees one")
    batch: int = Field(32, ge=1, description="pairs that a worker handles at once; one batch needs no Ray")
    cpus: float = Field(1.0, gt=0, description="CPUs a worker")
    gpus: float = Field(0.0, ge=0, description="GPUs a worker")

    @model_validator(mode="before")
    @classmethod
    def _without_root(cls, values: Any) -> Any:
        """A folder's pictures need no data root: where none is named, the ledger lies beside the results."""
        if isinstance(values, dict) and values.get("folder") is not None and values.get("out") is not None:
            return {"root": values["out"], **values}
        return values


class Settings(NamedTuple):
    """What decides a pair's result: the model, the layers and the search; and where results go."""

    fingerprint: str
    layers: dict[Side, int]
    place: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs for one worker."""

    first: int
    pairs: list[Pair]

    def __str__(self) -> str:
        return f"pairs {self.first + 1} to {self.first + len(self.pairs)}"


def run(config: AttributeConfig) -> dict[str, Any]:
    """Draw what the match of pairs rests on, a PNG and a JSON file a pair; those that are there are left alone."""
    root, account = Root(config.root), Account("attribute")
    pairs = find_pairs(root, config.uids, config.where, config.folder, config.limit)
    loaded = _load(config)
    settings = find_settings(config, loaded)
    todo = [pair for pair in pairs if not _is_done(_out(config), settings, pair)]
    batches = [Batch(at, todo[at : at + config.batch]) for at in range(0, len(todo), config.batch)]
    local = config.local or len(batches) <= 1
    unusable: dict[str, str] = {}
    make = _Attributer(config, settings, loaded if local else None)
    for batch, result in map_shards(batches, make, cpus=config.cpus, gpus=config.gpus, local=local):
        record(account, batch, result, len(batches))
        unusable |= result.get("unusable", {})
    out = _out(config).address(*settings.place)
    account.extra = {
        "done_before": len(pairs) - len(todo), "out": out, "layers": settings.layers,
        "unusable": dict(sorted(unusable.items())),
    }  # fmt: skip
    account.check(config.max_failed_fraction)
    if len(unusable) > config.max_failed_fraction * len(pairs):
        name, reason = next(iter(sorted(unusable.items())))
        raise BudgetExceeded(
            f"{len(unusable)} of {len(pairs)} pictures cannot be read, more than "
            f"max_failed_fraction={config.max_failed_fraction}; the first is {name}: {reason}",
            account.summary(),
        )
    say(f"attribute: {account.text() or 'all done before'}; in {out}")
    return account.summary()


def plan(config: AttributeConfig) -> dict[str, Any]:
    """Which pairs would be attributed."""
    pairs = find_pairs(Root(config.root), config.uids, config.where, config.folder, config.limit)
    check_name(resolve_name(config.model), config.pretrained)
    return {"model": config.model, "pairs": [pair.name for pair in pairs]}


def find_settings(config: AttributeConfig, loaded: LoadedModel) -> Settings:
    """Layers as asked for or as `shown_layer` finds them; ConfigError or ModelError where they cannot be had."""
    blank = split_preprocess(loaded.preprocess).stand_in()[None]
    images = split_preprocess(loaded.preprocess).normalised(blank, next(loaded.model.visual.parameters()).dtype)
    images = images.to(loaded.device)
    asked: dict[Side, int | None] = {"image": config.image_layer, "text": config.text_layer}
    layers: dict[Side, int] = {}
    for side in asked if config.side == "both" else (config.side,):
        layer = asked[side]
        layers[side] = (
            shown_layer(loaded.model, side, images) if layer is None else check_layer(loaded.model, side, layer)
        )
    search = [config.beta, config.steps, config.samples, config.lr, config.seed]
    name = fingerprint(_FORM, loaded.fingerprint, layers, search)
    return Settings(name, layers, () if config.out is not None else (FOLDER, name))


class _Attributer:
    """Picklable, without a model that is loaded already: makes the function that handles one batch."""

    def __init__(self, config: AttributeConfig, settings: Settings, loaded: LoadedModel | None) -> None:
        self.config, self.settings, self.loaded = config, settings, loaded

    def __call__(self) -> Work:
        loaded = self.loaded or _load(self.config)
        preprocess = split_preprocess(loaded.preprocess)
        return lambda batch: self.handle(batch, loaded, preprocess)

    def handle(self, batch: Batch, loaded: LoadedModel, preprocess: Preprocess) -> dict[str, Any]:
        """Attribute the pairs of a batch; `rows` are pairs."""
        out, place = _out(self.config), self.settings.place
        readable, pixels, unusable = [], [], {}
        pictures = read_pictures(Root(self.config.root), batch.pairs)
        for pair, data in zip(batch.pairs, pictures, strict=True):
            try:
                pixels.append(preprocess.pixels(data))
                readable.append(pair)
            except InputError as error:
                unusable[pair.name] = str(error)
        if readable:
            for pair, (png, facts) in zip(
                readable, self.attributed(loaded, preprocess, readable, pixels), strict=True
            ):
                out.write_bytes(png, *place, f"{pair.name}.png")
                # Written last: what has it is whole.
                out.write_bytes((json.dumps(facts, ensure_ascii=False) + "\n").encode(), *place, f"{pair.name}.json")
        counts = {"attributed": len(readable), FAILED: len(unusable)}
        return {"rows": len(batch.pairs), "counts": {k: n for k, n in counts.items() if n}, "unusable": unusable}

    def attributed(
        self, loaded: LoadedModel, preprocess: Preprocess, pairs: Sequence[Pair], pixels: Sequence[torch.Tensor]
    ) -> list[tuple[bytes, dict[str, Any]]]:
        """Picture and facts of each pair."""
        model, config = loaded.model, self.config
        stacked = torch.stack(list(pixels))
        images = preprocess.normalised(stacked.to(loaded.device), next(model.visual.parameters()).dtype)
        tokens = loaded.tokenizer([pair.caption for pair in pairs]).to(loaded.device)
        found = {}
        for side, layer in self.settings.layers.items():
            generator = torch.Generator().manual_seed(config.seed)
            found[side] = attribute(
                model, images, tokens, side=side, layer=layer, beta=config.beta, steps=config.steps,
                samples=config.samples, lr=config.lr, generator=generator,
            )  # fmt: skip
        matches, words = cosines(model, images, tokens), content(model, tokens)
        blank = torch.zeros(len(pairs), *stacked.shape[1:3])
        maps = (found["image"].map if "image" in found else blank).float().cpu().numpy()
        values = (found["text"].map if "text" in found else torch.zeros(tokens.shape)).float().cpu().numpy()
        results = []
        for number, pair in enumerate(pairs):
            chosen = words[number].cpu().numpy()
            shown = rescaled(values[number][chosen])
            caption = pieces(loaded.tokenizer, tokens[number].cpu().numpy()[chosen].tolist(), shown.tolist())
            png = pair_png(
                stacked[number].numpy(), maps[number], caption, cosine=float(matches[number]), title=pair.title
            )
            results.append((png, self.facts(pair, float(matches[number]), caption, maps[number])))
        return results

    def facts(self, pair: Pair, cosine: float, caption: Sequence[Piece], shown: np.ndarray) -> dict[str, Any]:
        """What the JSON file holds, for those who want to draw it themselves."""
        peak = np.unravel_index(int(shown.argmax()), shown.shape)
        return {
            "fingerprint": self.settings.fingerprint,
            "uid": pair.name,
            "caption": pair.caption,
            "cosine": round(cosine, 4),
            "layers": self.settings.layers,
            "tokens": [[piece.text, round(piece.value, 4)] for piece in caption],
            "peak": [int(peak[1]), int(peak[0])],
        }


def _is_done(out: Root, settings: Settings, pair: Pair) -> bool:
    """Whether the pair's files are there, whole and of these settings."""
    parts = (*settings.place, f"{pair.name}.json")
    if not out.exists(*parts):
        return False
    facts = out.read_json(*parts)
    return bool((facts.get("fingerprint"), facts.get("caption")) == (settings.fingerprint, pair.caption))


def _out(config: AttributeConfig) -> Root:
    return Root(config.root if config.out is None else config.out)


def _load(config: AttributeConfig) -> LoadedModel:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(config.model, config.pretrained, precision=config.precision, device=device)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `headwater attribute`."""
    return job_main("attribute", AttributeConfig, run, plan, argv)


if __name__ == "__main__":
    sys.exit(main())
