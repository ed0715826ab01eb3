"""Test-time calibration of zero-shot logits by clusters of unlabelled pictures, without training.

UMFC (Liang et al., "Unsupervised Multi-domain Feature Calibration", NeurIPS 2024): clusters of image features stand
for domains. Subtracting a cluster's mean from its pictures (IFC, equation 4) and moving the texts off the clusters'
directions (TFC, equation 6) takes out what the domain adds to every class alike.

Pictures and texts are arrays or tensors of finite numbers, features [N, E] and texts [K, E]; rows are normalised
here. Work and statistics are float64; logits come back as what the features came as, in float32 unless those were
float64.

Where there is nothing left of a vector, as of a cluster's only picture less its mean, it stays as it was. Clusters
without pictures take no part in any mean.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch

from evaluation.umfc_clusters import Floats, Ints, cluster, nearest, sums, unit
from filters.errors import ConfigError, InputError

Rule = Literal["paper", "repo", "ifc_only", "tfc_only"]
Update = Literal["memory", "ema"]


def calibrate(
    features: Any,
    text: Any,
    assignments: Any,
    *,
    rule: Rule = "paper",
    alpha: float = 0.9,
    beta: float = 0.3,
    scale: float = 100.0,
) -> Any:
    """Logits [N, K] of pictures whose clusters are given, calibrated by these pictures themselves.

    `features` [N, E], `text` [K, E], `assignments` int [N] of any numbers. `rule`: "paper" is equations 4 and 6,
    "ifc_only" and "tfc_only" are one of them alone; "repo" is what the authors released, the mean logits of the
    cluster subtracted with weight `alpha` and one common text direction with weight `beta`. `scale` is the model's
    logit scale. InputError for numbers that are not finite, other widths, or a single class.
    """
    rows = _rows(features, "features")
    _, given = np.unique(_labels(assignments, len(rows)), return_inverse=True)
    owner = Calibrator(int(given.max()) + 1, rule=rule, alpha=alpha, beta=beta, scale=scale).fit(rows, given)
    return _like(features, owner._logits(rows, _rows(text, "text", owner.width), given))


class Calibrator:
    """Clusters of pictures and their means, learned from unlabelled pictures, and logits calibrated by them.

    Three settings: `fit` on other pictures, then `predict` (unsupervised calibration); `fit` and `predict` on the
    test set itself (transductive); or for each batch of a stream `update`, then `predict` (test time). One object
    owns prototypes and means, so that a cluster's number cannot mean two things. Its state is O(clusters · width),
    however many pictures it has seen: sums and counts are all that the means need.

    `update="memory"` takes the means over all pictures seen; "ema" lets a mean forget, by `decay` a batch that holds
    its cluster, and begins at the first batch's mean. Prototypes are the means of all pictures seen in both.
    """

    def __init__(
        self,
        clusters: int,
        *,
        rule: Rule = "paper",
        alpha: float = 0.9,
        beta: float = 0.3,
        scale: float = 100.0,
        update: Update = "memory",
        decay: float = 0.9,
        seed: int = 0,
    ) -> None:
        if clusters < 1:
            raise ConfigError(f"{clusters} clusters; at least one is needed")
        if rule not in get_args(Rule) or update not in get_args(Update):
            raise ConfigError(
                f"rule {rule!r}, update {update!r}: expected one of {', '.join(get_args(Rule))} and one of "
                f"{', '.join(get_args(Update))}"
            )
        if not (np.isfinite([alpha, beta, scale]).all() and 0 <= decay < 1):
            raise ConfigError(f"alpha {alpha}, beta {beta}, scale {scale} must be finite, decay {decay} in 0 to 1")
        self.clusters, self.rule, self.seed = clusters, rule, seed
        self.alpha, self.beta, self.scale = alpha, beta, scale
        self._decay = decay if update == "ema" else None
        self._state: _State | None = None

    def fit(self, features: Any, assignments: Any = None) -> Self:
        """Start afresh from `features` [N, E], clustered by seeded k-means unless `assignments` int [N] are given."""
        rows = _rows(features, "features")
        given = None if assignments is None else _labels(assignments, len(rows))
        if given is not None and not 0 <= given.min() <= given.max() < self.clusters:
            raise InputError(
                f"assignments run from {given.min()} to {given.max()}, there are {self.clusters} clusters"
            )
        self._start(rows, given, streaming=False)
        return self

    def update(self, batch: Any) -> Ints:
        """Take in the next batch [B, E] of a stream, and the cluster int64 [B] of each of its pictures.

        The first batch is clustered by k-means; where it has fewer pictures than there are clusters, the first
        pictures of the stream become the centres. Later pictures go to the nearest prototype.
        """
        if self._state is None:
            return self._start(_rows(batch, "batch"), None, streaming=True)
        state, rows = self._state, _rows(batch, "batch", self.width)
        state.streaming = True
        fresh = min(state.open, len(rows))
        new = np.arange(fresh) + self.clusters - state.open
        state.add(rows[:fresh], new)
        state.open -= fresh
        near = state.nearest(rows[fresh:])
        state.add(rows[fresh:], near)
        assignments = np.concatenate([new, near])
        state.refresh(rows, assignments)
        return assignments

    def predict(self, batch: Any, text: Any) -> Any:
        """Logits [B, K] of a batch [B, E] for `text` [K, E], each picture by the cluster of its nearest prototype."""
        rows = _rows(batch, "batch", self.width)
        return _like(batch, self._logits(rows, _rows(text, "text", self.width), self._known.nearest(rows)))

    def _logits(self, rows: Floats, text: Floats, assignments: Ints) -> Floats:
        """Logits float64 [B, K] of unit `rows` [B, E] and `text` [K, E] in known clusters int64 [B]."""
        if len(text) < 2:
            raise InputError("text holds one class; there is nothing to choose between")
        state = self._known
        if self.rule == "repo":
            moved = unit(text - self.beta * state.direction(), text)
            shift: Floats = self.alpha * (state.means @ text.T)[assignments]
            return self.scale * (rows @ moved.T - shift)
        if self.rule != "ifc_only":
            # The mean over clusters first, its length last: equation 7 takes cosines.
            text = unit(np.mean([unit(text - bias, text) for bias in state.offsets()], axis=0), text)
        if self.rule != "tfc_only":
            rows = unit(rows - state.means[assignments], rows)
        return self.scale * (rows @ text.T)

    @property
    def width(self) -> int:
        """Numbers of a feature, E; InputError before the first pictures."""
        return self._known.sums.shape[1]

    @property
    def prototypes(self) -> Floats:
        """Centres float64 [clusters, E] that pictures are assigned by; NaN for a cluster without pictures."""
        return np.where(self._known.seen[:, None], self._known.centres(), np.nan)

    @property
    def means(self) -> Floats:
        """Means float64 [clusters, E] that pictures are calibrated by; NaN for a cluster without pictures."""
        return np.where(self._known.seen[:, None], self._known.means, np.nan)

    @property
    def counts(self) -> Ints:
        """How many pictures each cluster has had: int64 [clusters]."""
        return self._known.counts.copy()

    @property
    def state_bytes(self) -> int:
        """Bytes of all arrays that are kept between batches."""
        return sum(array.nbytes for array in vars(self._known).values() if isinstance(array, np.ndarray))

    @property
    def _known(self) -> _State:
        if self._state is None:
            raise InputError("this calibrator has seen no pictures; call fit or update first")
        return self._state

    def _start(self, rows: Floats, given: Ints | None, *, streaming: bool) -> Ints:
        few = given is None and len(rows) < self.clusters
        assignments = np.arange(len(rows)) if few else given
        if assignments is None:
            assignments = cluster(rows, self.clusters, self.seed)
        self._state = _State(self.clusters, rows.shape[1], self._decay)
        self._state.open = self.clusters - len(rows) if few else 0
        self._state.streaming = streaming
        self._state.add(rows, assignments)
        self._state.refresh(rows, assignments)
        return assignments


class _State:
    """Sums, counts, means and text biases of the clusters; every array is [clusters], [E] or [clusters, E]."""

    def __init__(self, clusters: int, width: int, decay: float | None) -> None:
        self.sums = np.zeros((clusters, width))
        self.counts = np.zeros(clusters, np.int64)
        self.means = np.zeros((clusters, width))
        self.biases = np.zeros((clusters, width))
        self.average = np.zeros(width)
        self.decay = decay
        self.open = 0  # clusters that the next pictures of the stream are to open
        self.streaming = False

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        return self.counts > 0

    def centres(self) -> Floats:
        return self.sums / np.maximum(self.counts, 1)[:, None]

    def nearest(self, rows: Floats) -> Ints:
        return nearest(rows, self.centres(), self.seen)

    def add(self, rows: Floats, assignments: Ints) -> None:
        self.sums += sums(rows, assignments, len(self.counts))
        self.counts += np.bincount(assignments, minlength=len(self.counts))

    def refresh(self, rows: Floats, assignments: Ints) -> None:
        """Means after a batch was added, and the biases of the clusters it holds."""
        if self.decay is None:
            self.means = self.centres()
            self.average = self.sums.sum(axis=0) / self.counts.sum()
        else:
            self._forget(rows, assignments, self.decay)
        held = np.unique(assignments)
        self.biases[held] = self.average - self.means[held]

    def _forget(self, rows: Floats, assignments: Ints, decay: float) -> None:
        """Exponential averages; the first batch of all, or of a cluster, counts in full instead of against zero."""
        counts = np.bincount(assignments, minlength=len(self.counts))
        held, new = counts > 0, counts == self.counts
        batch = sums(rows, assignments, len(counts)) / np.maximum(counts, 1)[:, None]
        kept = np.where(held, np.where(new, 0.0, decay), 1.0)[:, None]
        self.means = kept * self.means + (1 - kept) * batch
        kept_all = 0.0 if new.all() else decay
        self.average = kept_all * self.average + (1 - kept_all) * rows.mean(axis=0)

    def offsets(self) -> Floats:
        """How far each cluster's mean is from the mean of all: b of equation 6, [clusters seen, E]."""
        return self.means[self.seen] - self.average

    def direction(self) -> Floats:
        """The released code's one text direction [E], of length 1; 0 where the sum is too short to have one.

        Biases count with length 1; in a stream with their own length, and as of their cluster's last batch.
        """
        biases = self.biases[self.seen]
        total = biases.sum(axis=0) if self.streaming else unit(biases, np.zeros_like(biases)).sum(axis=0)
        found: Floats = unit(total[None], np.zeros_like(total)[None])[0]
        return found


def _rows(given: Any, what: str, width: int | None = None) -> Floats:
    """An array or tensor [N, E] as unit rows in float64; InputError where it is not that."""
    rows = np.asarray(given.detach().cpu().double() if isinstance(given, torch.Tensor) else given, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f"{what} has shape {list(rows.shape)}, expected rows of numbers [N, E]")
    if width is not None and rows.shape[1] != width:
        raise InputError(f"{what} has {rows.shape[1]} numbers a row, {width} are needed; is it of another model?")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} is zero or holds NaN or infinity, as {len(bad)} rows do")
    normalised: Floats = rows / length
    return normalised


def _labels(given: Any, size: int) -> Ints:
    labels = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    if labels.shape != (size,) or not size or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"assignments are {labels.dtype} {list(labels.shape)}, expected one integer for {size} rows")
    return labels.astype(np.int64)


def _like(given: Any, logits: Floats) -> Any:
    """Logits as the features came: a tensor on their device or an array, float64 only if they were."""
    if isinstance(given, torch.Tensor):
        kind = torch.float64 if given.dtype == torch.float64 else torch.float32
        return torch.from_numpy(logits).to(given.device, kind)
    double = getattr(given, "dtype", None) == np.float64
    return logits if double else logits.astype(np.float32)
