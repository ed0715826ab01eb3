"""A study as one page of YAML: its sources, sizes and seeds, its mixtures, ensembles and filtered variants."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.config import JobConfig
from pipelines.mixture import Condition
from trainer.config import TrainConfig

# Up to this, an amount is so many times a whole; above it, so many samples.
_TIMES = 10.0
Amount = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def samples_of(amount: float, whole: int) -> int:
    """Samples that an amount stands for: up to 10 it is times `whole`, above that it is the number itself."""
    return max(1, round(amount * whole)) if amount <= _TIMES else round(amount)


class Mixtures(BaseModel):
    """Input mixtures of one kind; `total` and `parts` are in times of the smallest source, or numbers of samples.

    Even parts unless one of `ratios`, `weights`, `leave_one_out`, `dirichlet` and `alone` says otherwise; `parts`
    gives each source's own amount instead of a total.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = Field(None, description="name of the mixture; made from its sources and shares if null")
    sources: list[str] = Field([], description="the sources that are mixed; all of the study if empty")
    total: list[Amount] = Field([1.0], min_length=1, description="samples of all sources together, one or several")
    parts: dict[str, Amount] | None = Field(None, description="samples of each source")
    weights: dict[str, Amount] | None = Field(None, description="weight of each source in the total")
    ratios: list[Share] = Field([], description="shares of the first of two sources, a mixture each")
    leave_one_out: bool = Field(False, description="a mixture without each of the sources in turn")
    alone: bool = Field(False, description="each of the sources by itself, at these totals too")
    dirichlet: int = Field(0, ge=0, description="number of mixtures whose weights are drawn at random")
    alpha: float = Field(1.0, gt=0, description="concentration of these weights: below 1 few sources, above 1 even")
    seed: int = Field(0, ge=0, description="seed of these weights")
    seeds: list[int] | None = Field(None, description="seeds of the runs; the study's if null")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Mixtures:
        kinds = [self.parts, self.weights, self.ratios, self.leave_one_out, self.dirichlet, self.alone]
        if sum(bool(kind) for kind in kinds) > 1:
            raise ValueError("give one of parts, weights, ratios, leave_one_out, dirichlet and alone")
        if self.ratios and len(self.sources) != 2:
            raise ValueError("ratios are of two sources; name them in `sources`")
        if (self.weights or self.parts) and (self.sources or (self.weights and self.name is None)):
            raise ValueError("weights and parts name their sources themselves, and weights need a `name`")
        return self


class Ensembles(BaseModel):
    """Output mixing: the mean of the logits of runs on single sources, from their cached logits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="name of the ensemble")
    sources: list[str] = Field([], description="the sources; all of the study if empty")
    size: Amount = Field(1.0, description="which of the study's sizes the runs have")
    weights: list[Amount] | None = Field(None, description="weight of each source; all the same if null")
    like_mixtures: bool = Field(
        False, description="an ensemble for each of the study's mixtures, with its sources and weights"
    )
    seeds: list[int] | None = Field(None, description="seeds of the runs; the study's if null")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Ensembles:
        if self.like_mixtures and (self.sources or self.weights):
            raise ValueError("like_mixtures takes sources and weights from the mixtures; leave them out")
        return self


class Filters(BaseModel):
    """One source filtered by scorers that are checkpoints of this study.

    The source is cut into two halves by hash. `self` is trained on the first and chooses from the second, as do
    `best` (the full-size run of the source with the highest line, found on the fit half of the concepts), a source's
    name (its full-size run), and `random`, which draws as many without a look.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="the source that is filtered")
    fraction: Share = Field(0.5, description="share of its second half that is kept")
    scorers: list[str] = Field(["self", "best", "random"], min_length=1, description="who chooses, a run each")
    swapped: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.0], min_length=1, description="shares of the second half whose captions change places first, a run each"
    )
    seeds: list[int] | None = Field(None, description="seeds of the runs; the study's if null")


class Proposal(BaseModel):
    """A mixture that `headwater advise` proposes from the study's own runs, once all others are over."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field("proposal", description="name of the mixture, and of its stored prediction")
    target: str = Field(description="the shift to be good at")
    total: Amount = Field(1.0, description="samples, as those of a mixture")
    constraint: list[str] = Field([], description='what must hold too, as "reference>=0.30"')
    exclude: list[str] = Field([], description="sources that a licence, or anything else, keeps out")
    step: float = Field(0.05, gt=0, le=1, description="shares are multiples of this")
    seeds: list[int] | None = Field(None, description="seeds of the runs; the study's if null")


class StudyConfig(JobConfig):
    """What a study trains and evaluates, and on what."""

    folder: Name = Field("study", description="folder of the study under the root; a root may have several")
    claims: str | None = Field(
        "configs/study/claims.yaml", description="file of the claims that are fixed before the first run; null: none"
    )
    tasks: str = Field("eval", description="folder of evaluation sets under the root")
    reference: str = Field(description="name of the set that plays the part of ImageNet")
    ways: int = Field(100, ge=2, description="k of the expected k-way accuracy")
    families: dict[str, str] = Field({}, description="source to artist or origin, to mark cells where both agree")
    sources: list[str] = Field(min_length=1, description="the sources, in the order of reports")
    where: Condition = Field(None, description="SQL condition over `samples` for every run")
    sizes: list[Amount] = Field(
        [0.25, 0.5, 0.75, 1.0],
        description="nested sizes: up to 10 shares of what each source has, above that numbers of samples; a number "
        "that a source does not have is left out",
    )
    seeds: list[int] = Field([0, 1], min_length=1, description="each draws subsets, weights and order anew")
    mixtures: list[Mixtures] = Field([], description="input mixtures")
    ensembles: list[Ensembles] = Field([], description="output mixtures")
    filters: list[Filters] = Field([], description="filtered variants")
    proposals: list[Proposal] = Field([], description="mixtures that the other runs propose")
    report: Name = Field("report", description="folder of the report in the study's folder")
    rates: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="learning rates, of which one is chosen before the grid: on the even mixture, by the fit half of "
        "the reference's concepts; the recipe's if empty",
    )
    epochs: float | None = Field(None, gt=0, description="passes over a run's samples, instead of samples seen")
    barely: float = Field(
        0.9, gt=0, le=1, description="a run whose last loss is above this share of the logarithm of the batch, which "
        "guessing gives, is flagged"
    )  # fmt: skip
    ranks: int = Field(1, ge=1, description="processes a training run on a Ray cluster")
    cpus: float = Field(1.0, gt=0, description="CPUs a process")
    gpus: float = Field(0.0, ge=0, description="GPUs a process")
    train: TrainConfig = Field(description="the recipe, the same for every run; needs at least `model`")

    @model_validator(mode="after")
    def _known_sources(self) -> StudyConfig:
        named = [name for mix in self.mixtures for name in [*mix.sources, *(mix.parts or {}), *(mix.weights or {})]]
        named += [name for one in self.ensembles for name in one.sources]
        named += [name for one in self.filters for name in (one.source, *one.scorers)]
        if unknown := sorted(set(named) - {*self.sources, "self", "best", "random"}):
            raise ValueError(f"{', '.join(unknown)} is none of the study's sources")
        if twice := sorted({name for name in self.sources if self.sources.count(name) > 1}):
            raise ValueError(f"source {', '.join(twice)} is listed twice")
        return self
