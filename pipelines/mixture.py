"""A mixture as one page of YAML: sources with weights, conditions, and what to do where samples lack."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from pipelines.expression import check
from pipelines.quota import apportion


def _checked(text: str | None) -> str | None:
    return None if text is None else check(text)


Condition = Annotated[str | None, AfterValidator(_checked)]


class MixSource(BaseModel):
    """One source's part in a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="name of the source")
    weight: float = Field(1.0, gt=0, le=1e9, description="share of the samples, relative to the other sources")
    where: Condition = Field(None, description="SQL condition over `samples`, for this source")
    top_fraction: float | None = Field(
        None, gt=0, le=1, description="keep this share of what is left, the best by `top_score`; else the mixture's"
    )
    caption: str = Field(
        "caption", description="caption to train on: a column of `samples`, or an SQL expression that gives text"
    )
    max_repeats: int | None = Field(
        1, ge=1, description="times one sample may be used where the mixture repeats; null for no limit"
    )


class MixConfig(BaseModel):
    """A mixture as one page of YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the mixture and of its folder")
    seed: int = Field(0, ge=0, description="seed of the order in which samples are drawn")
    total: int = Field(ge=1, description="samples in the mixture")
    where: Condition = Field(None, description="SQL condition over `samples`, for all sources")
    top_fraction: float | None = Field(
        None, gt=0, le=1, description="the same for every source that names none of its own"
    )
    top_scope: Literal["source", "global"] = Field(
        "source",
        description="whether `top_fraction` is of each source, or of all together: one threshold, which changes "
        "what share of the samples that are left is of which source",
    )
    top_score: str = Field("clip_score", description="the score column that `top_fraction` goes by")
    exclude_duplicates: bool = Field(True, description="leave out duplicates of others, and placeholders")
    exclude_eval_overlap: bool = Field(True, description="leave out samples that an evaluation set holds")
    on_shortage: Literal["error", "repeat", "truncate"] = Field("error", description="what to do when samples lack")
    sources: list[MixSource] = Field(min_length=1, description="the sources and their weights")

    @field_validator("sources")
    @classmethod
    def _once_each(cls, sources: list[MixSource]) -> list[MixSource]:
        names = [source.source for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"source {', '.join(repeated)} is listed twice; give each source once")
        return sources

    @field_validator("top_scope")
    @classmethod
    def _of_something(cls, scope: str, info: ValidationInfo) -> str:
        if scope == "global" and info.data.get("top_fraction") is None:
            raise ValueError("a global threshold needs the mixture's `top_fraction`")
        return scope

    @field_validator("sources")
    @classmethod
    def _one_threshold(cls, sources: list[MixSource], info: ValidationInfo) -> list[MixSource]:
        if info.data.get("top_scope") == "global" and any(source.top_fraction is not None for source in sources):
            raise ValueError(
                "with `top_scope: global` there is one `top_fraction`, the mixture's; take out the others"
            )
        return sources


def shares(mix: MixConfig) -> list[int]:
    """Samples asked of each source: its weight's share, less than one away, and none falling as the total grows."""
    return apportion([source.weight for source in mix.sources], mix.total)
