"""Everything that decides a training run."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class AugmentConfig(BaseModel):
    """Random changes of a training picture; the defaults of 0 change nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class TrainConfig(BaseModel):
    """One training run of a CLIP model on a mixture; samples seen are the unit of length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="folder with open_clip_config.json: the architecture")
    samples_seen: Annotated[int, Field(gt=0)] = Field(38_400, description="training pairs, with repetitions")
    batch: Annotated[int, Field(gt=1)] = Field(128, description="pairs a step")
    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="learning rate after warm-up")
    warmup: Fraction = Field(0.1, description="part of the steps in which the learning rate rises")
    wd: Annotated[float, Field(ge=0)] = Field(0.1, description="weight decay of matrices and kernels")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.98, description="second moment decay of AdamW")
    clip: Annotated[float, Field(ge=0)] = Field(1.0, description="largest gradient norm; 0 turns clipping off")
    seed: int = Field(0, ge=0, description="decides initial weights, order and augmentation")
    threads: Annotated[int, Field(gt=0)] = Field(1, description="CPU threads; results are bit-exact for one number")
    cache_mb: Annotated[int, Field(ge=0)] = Field(256, description="bound of the cache of decoded pictures, MiB")
    log_every: Annotated[int, Field(gt=0)] = Field(20, description="steps between lines of metrics.jsonl")
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
