"""Everything that decides a training run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]


class AugmentConfig(BaseModel):
    """Random changes of a training picture; the defaults change nothing.

    `crop`, `jitter` and `grey` are open_clip's, with the same distributions: a box of a random part of the area
    resized to the model's size, then colours. Without `crop` the whole picture is fitted into the square and padded
    with white. The other changes come after.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[float, float] | None = Field(
        None, description="least and largest part of the area that the random crop keeps; open_clip has [0.9, 1.0]"
    )
    crop_ratio: tuple[float, float] = Field((0.75, 4 / 3), description="bounds of the crop's aspect ratio")
    jitter: tuple[float, float, float, float] | None = Field(
        None, description="strength of random brightness, contrast, saturation and hue"
    )
    jitter_prob: Fraction = Field(1.0, description="chance that `jitter` is applied")
    zoom: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="scale is drawn from 1 ± zoom")
    shift: Fraction = Field(0.0, description="largest shift as a part of the side")
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = Field(0.0, description="largest rotation, degrees")
    stretch: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="aspect ratio is drawn from 1 ± stretch"
    )
    flip: Fraction = Field(0.0, description="chance of a left-right mirror image")
    tint: Fraction = Field(0.0, description="each channel is multiplied by a number from 1 - tint to 1")
    contrast: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="contrast factor from 1 ± contrast")
    grey: Fraction = Field(0.0, description="chance that the picture becomes grey")
    permute: Fraction = Field(0.0, description="chance that the colour channels change places")
    erase: Fraction = Field(0.0, description="side of a white square put at a random place, as a part of the side")

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        for name, bounds in (("crop", self.crop), ("crop_ratio", self.crop_ratio)):
            if bounds is not None and not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name}: the first number must be above 0 and not above the second")
        if self.crop is not None and self.crop[1] > 1:
            raise ValueError("crop: a crop cannot keep more than the whole area, 1.0")
        return self


class TrainConfig(BaseModel):
    """One training run of a CLIP model on a mixture; samples seen are the unit of length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="an open_clip name, or a folder with open_clip_config.json: the architecture")
    pretrained: str | None = Field(
        None, description="weights to start from: a tag of open_clip, a folder, a weights file, or an epoch_N.pt"
    )
    samples_seen: Positive = Field(38_400, description="training pairs, with repetitions")
    batch: Annotated[int, Field(gt=1)] = Field(128, description="pairs a step, of all processes together")
    micro_batch: int | None = Field(
        None, gt=0, description="most pairs that a process has in one pass; the contrastive batch stays whole"
    )
    batch_mix: Literal["mixed", "single_source"] = Field("mixed", description="whether a batch may mix sources")
    loss: Literal["clip", "siglip"] = Field("clip", description="symmetric InfoNCE, or SigLIP's sigmoid loss")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate after warm-up")
    warmup: Fraction = Field(0.1, description="part of the steps in which the learning rate rises")
    warmup_samples: int | None = Field(None, ge=0, description="the same in samples seen, instead of `warmup`")
    wd: Annotated[float, Field(ge=0)] = Field(0.1, description="weight decay of matrices and kernels")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="first moment decay of AdamW")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.98, description="second moment decay of AdamW")
    eps: Annotated[float, Field(gt=0)] = Field(1e-6, description="epsilon of AdamW")
    clip: Annotated[float, Field(ge=0)] = Field(1.0, description="largest gradient norm; 0 turns clipping off")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="each layer's learning rate as a part of that of the layer above it"
    )
    lock_image: bool = Field(False, description="leave the image tower as it is (LiT)")
    lock_image_unlocked: int = Field(0, ge=0, description="last groups of layers of a locked image tower that train")
    lock_text: bool = Field(False, description="leave the text tower as it is")
    lock_text_unlocked: int = Field(0, ge=0, description="last layers of a locked text tower that train")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: products in bf16, weights stay in fp32")
    compile: bool = Field(False, description="compile the transformers' layers")
    checkpoint_activations: bool = Field(False, description="compute activations twice and keep few of them")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay a step of the moving average of the weights, saved beside them; 0 turns it off"
    )
    seed: int = Field(0, ge=0, description="decides initial weights, order and augmentation")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: Positive = Field(1, description="CPU threads; results are bit-exact for one number")
    workers: int = Field(0, ge=0, description="processes that read and decode; 0: threads of this one")
    cache_mb: Annotated[int, Field(ge=0)] = Field(256, description="bound of the cache of decoded pictures, MiB")
    tars: str | None = Field(
        None,
        description="folder of the mixture's tars from `headwater materialize`, read in sequence (for slow disks)",
    )
    scratch: str | None = Field(
        None, description="folder for files made once from a manifest, on a local disk; the temporary folder if null"
    )
    check_hashes: bool = Field(False, description="compare each picture's bytes with its shard's sha256")
    log_every: Positive = Field(20, description="steps between lines of metrics.jsonl")
    save_every: int | None = Field(None, gt=0, description="samples between checkpoints; none before the end if null")
    keep_every: int | None = Field(None, gt=0, description="keep every n-th checkpoint, beside the latest")
    average: int = Field(0, ge=0, description="also save the mean of the weights of the last n kept checkpoints")
    evaluate_every: int | None = Field(None, gt=0, description="samples between evaluations; none if null")
    tensorboard: bool = Field(False, description="write TensorBoard's files too")
    wandb: str | None = Field(None, description="project of Weights & Biases to log to, if it is installed")
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
