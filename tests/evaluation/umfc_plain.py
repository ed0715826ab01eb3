"""UMFC as its description says it, in plain loops of float64, and made-up features."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluation.umfc import Rule

RULES: tuple[Rule, ...] = ("paper", "repo", "ifc_only", "tfc_only")
Array = np.ndarray[Any, Any]


def n(rows: Array) -> Array:
    """Rows of length 1."""
    normalised: Array = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return normalised


def random_case(
    seed: int = 0, pictures: int = 60, classes: int = 7, width: int = 16, clusters: int = 4
) -> tuple[Array, Array, Array]:
    """Features with clusters of unequal size, texts, and the cluster of each feature."""
    rng = np.random.default_rng(seed)
    given = rng.choice(clusters, pictures, p=np.arange(1, clusters + 1) / (clusters * (clusters + 1) / 2))
    given[:clusters] = np.arange(clusters)
    given[clusters : 2 * clusters] = np.arange(clusters)
    centres = 0.7 * rng.standard_normal((clusters, width))
    features = centres[given] + rng.standard_normal((pictures, width)) + 1
    return features, rng.standard_normal((classes, width)) + 0.5, given


def oracle(
    features: Array, text: Array, given: Array, rule: str, alpha: float = 0.9, beta: float = 0.3, scale: float = 100.0
) -> Array:
    """The description in loops: one picture, one class and one cluster at a time."""
    f, t = n(features), n(text)
    names = sorted(set(given.tolist()))
    mu = {i: np.mean([f[k] for k in range(len(f)) if given[k] == i], axis=0) for i in names}
    average = np.mean(f, axis=0)
    if rule == "repo":
        terms = [(average - mu[i]) / np.linalg.norm(average - mu[i]) for i in names]
        bias = np.sum(terms, axis=0)
        moved = [n(t_j - beta * n(bias)) for t_j in t]
        return np.array(
            [
                [scale * f[k] @ moved[j] - alpha * scale * mu[given[k]] @ t[j] for j in range(len(t))]
                for k in range(len(f))
            ]
        )
    if rule != "ifc_only":
        t = np.array([np.mean([n(t_j - (mu[i] - average)) for i in names], axis=0) for t_j in t])
    if rule != "tfc_only":
        f = np.array([f[k] - mu[given[k]] for k in range(len(f))])
    return np.array([[scale * n(f_k) @ n(t_j) for t_j in t] for f_k in f])


def nearest(x: Array, centres: dict[int, Array]) -> int:
    """The number of the nearest centre."""
    return min(centres, key=lambda i: float(np.linalg.norm(x - centres[i])))


class PlainStream:
    """A stream as the released code treats it: every feature is kept, and every mean taken anew in each batch."""

    def __init__(self, first: Array) -> None:
        self.features: list[Array] = []
        self.labels: list[int] = []
        self.biases: dict[int, Array] = {}
        self.first: Array | None = first

    def update(self, batch: Array) -> Array:
        if self.first is not None:
            labels, self.first = self.first, None
        else:
            centres = self.means()
            labels = np.array([nearest(x, centres) for x in n(batch)])
        self.features += list(n(batch))
        self.labels += labels.tolist()
        for i in set(labels.tolist()):
            self.biases[i] = np.mean(self.features, axis=0) - self.means()[i]
        return labels

    def means(self) -> dict[int, Array]:
        known = np.array(self.labels)
        return {i: np.array(self.features)[known == i].mean(axis=0) for i in sorted(set(self.labels))}

    def logits(self, batch: Array, text: Array, rule: str, scale: float = 100.0) -> Array:
        f, t, mu = n(batch), n(text), self.means()
        own = np.array([mu[nearest(x, mu)] for x in f])
        if rule == "repo":
            total = np.sum(list(self.biases.values()), axis=0)
            moved = n(t - 0.3 * n(total)) if np.linalg.norm(total) > 1e-6 else t
            return scale * f @ moved.T - 0.9 * scale * own @ t.T
        average = np.mean(self.features, axis=0)
        t = np.mean([n(t - (mu[i] - average)) for i in mu], axis=0)
        return scale * n(f - own) @ n(t).T
