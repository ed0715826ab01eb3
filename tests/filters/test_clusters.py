"""Similar vectors: every pair right, nearly every pair found, clear words for what cannot be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from filters import products
from filters.clusters import (
    GOAL,
    Search,
    cross_pairs,
    nearest,
    pair_recall,
    similar_pairs,
    train_centroids,
)
from filters.errors import InputError

Floats = npt.NDArray[np.float32]


def unit(rows: npt.NDArray[np.floating]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def topics(size: int, width: int = 64, seed: int = 0) -> Floats:
    """Vectors in thirty loose topics; the last twentieth partners of the first at a cosine of 0.95."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((30, width)))
    rows = unit(centres[rng.integers(0, 30, size)] + rng.standard_normal((size, width)) * 0.09)
    planted = size // 20
    random = rng.standard_normal((planted, width)).astype(np.float32)
    random = unit(random - np.einsum("nd,nd->n", random, rows[:planted])[:, None] * rows[:planted])
    rows[-planted:] = np.float32(0.95) * rows[:planted] + np.float32(np.sqrt(1 - 0.95**2)) * random
    return rows


def brute(a: Floats, b: Floats, threshold: float) -> npt.NDArray[np.int64]:
    return np.argwhere(a.astype(np.float64) @ b.astype(np.float64).T >= threshold)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_cluster_is_complete(dtype: type[np.float16] | type[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    vectors: Any = topics(2500).astype(dtype)
    expected = brute(vectors.astype(np.float32), vectors.astype(np.float32), 0.9)
    expected = expected[expected[:, 0] < expected[:, 1]]
    pairs, cosine, *_ = similar_pairs(vectors, 0.9)
    assert np.array_equal(pairs, expected)
    exact = np.einsum("nd,nd->n", vectors[pairs[:, 0]].astype(np.float64), vectors[pairs[:, 1]].astype(np.float64))
    assert np.allclose(cosine, exact, atol=1e-6)
    assert cosine.dtype == np.float32
    # Smaller blocks change nothing, to the last bit.
    monkeypatch.setattr(products._Host, "tile", 300)
    again = similar_pairs(vectors, 0.9)
    assert np.array_equal(again[0], pairs)
    assert np.array_equal(again[1], cosine)


@pytest.mark.parametrize("probes", [1, 3, 25])
def test_clusters_give_true_pairs_once_and_all_with_all_probes(probes: int) -> None:
    vectors = topics(3000)
    every, *_ = similar_pairs(vectors, 0.9, clusters=1)
    pairs, cosine, *_ = similar_pairs(vectors, 0.9, clusters=25, probes=probes)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert set(map(tuple, pairs.tolist())) <= set(map(tuple, every.tolist()))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert np.array_equal(pairs, pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
    if probes == 25:
        assert np.array_equal(pairs, every)
    again = similar_pairs(vectors, 0.9, clusters=25, probes=probes)
    assert np.array_equal(again[0], pairs)
    assert np.array_equal(again[1], cosine)


def test_measured_probes_reach_their_goal() -> None:
    vectors = topics(6000)
    one, *_ = similar_pairs(vectors, 0.949, clusters=64, probes=1)
    chosen, _, search = similar_pairs(vectors, 0.949, clusters=64)
    every, _, every_search = similar_pairs(vectors, 0.949, clusters=1)
    assert 1 < search.probes < search.clusters == 64
    assert GOAL <= search.recall <= 1
    assert similar_pairs(vectors, 0.949, clusters=64, probes=1).search.recall < 0.98
    assert every_search == Search(1, 1, 1.0)
    # Here only one side visits, so that it takes more.
    across = cross_pairs(vectors[:3000], vectors[3000:], 0.949, clusters=64)
    assert across.search.probes > 1
    assert len(across.pairs) >= 0.99 * len(brute(vectors[:3000], vectors[3000:], 0.949))
    assert len(cross_pairs(vectors[:0], vectors, 0.9, clusters=9).pairs) == 0
    assert len(one) < 0.98 * len(every)
    assert len(chosen) >= 0.99 * len(every)
    assert pair_recall(vectors, 0.949, every, sample=6000) == 1
    assert pair_recall(vectors, 0.949, one, sample=6000) == pytest.approx(len(one) / len(every), abs=1e-9)
    assert np.isnan(pair_recall(vectors, 1.1, every))


def test_across_two_sets() -> None:
    vectors = topics(4000)
    queries, base = vectors[:900], vectors[900:]
    expected = brute(queries, base, 0.9)
    exact, *_ = cross_pairs(queries, base, 0.9)
    assert np.array_equal(exact, expected)
    every, *_ = cross_pairs(queries, base, 0.9, clusters=20, probes=20)
    assert np.array_equal(every, expected)
    some, cosine, *_ = cross_pairs(queries, base, 0.9, clusters=20, probes=2)
    assert set(map(tuple, some.tolist())) <= set(map(tuple, expected.tolist()))
    assert (cosine >= np.float32(0.9)).all()


def test_equal_rows_are_a_star() -> None:
    vectors = topics(1000).astype(np.float16)
    vectors[500:600] = vectors[7]
    pairs, cosine, *_ = similar_pairs(vectors, 0.999)
    assert np.array_equal(pairs, [[7, row] for row in range(500, 600)])
    assert (cosine == 1).all()
    assert np.isnan(pair_recall(vectors, 0.999, pairs, sample=1000))
    across, *_ = cross_pairs(vectors[7:8], vectors, 0.999)
    assert len(across) == 101


def test_centroids() -> None:
    vectors = topics(2000)
    centroids = train_centroids(vectors, 16, seed=3)
    assert centroids.shape == (16, 64)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert np.array_equal(centroids, train_centroids(vectors, 16, seed=3))
    found = nearest(vectors, centroids, 5)
    scores = np.take_along_axis(vectors @ centroids.T, found.astype(np.int64), axis=1)
    assert np.allclose(scores, -np.sort(-(vectors @ centroids.T), axis=1)[:, :5], atol=1e-6)
    assert train_centroids(vectors[:3], 16, seed=0).shape == (3, 64)


@pytest.mark.parametrize("room", [0, 10**9])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_a_gpu_does_gives_the_same_pairs(
    room: int, dtype: type[np.float16] | type[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors: Any = topics(1200)[:, :60]
    vectors = unit(vectors).astype(dtype)
    expected = similar_pairs(vectors, 0.9, clusters=9, probes=3)
    across = cross_pairs(vectors[:300], vectors, 0.9, clusters=9, probes=3)
    monkeypatch.setattr("filters.clusters.products", lambda rows: products._Torch(rows, "cpu", room))
    monkeypatch.setattr(products._Torch, "tile", 100)
    for one, other in (
        (similar_pairs(vectors, 0.9, clusters=9, probes=3), expected),
        (cross_pairs(vectors[:300], vectors, 0.9, clusters=9, probes=3), across),
    ):
        # The last bit of a sum may differ.
        assert len(expected[0]) > 30
        assert np.array_equal(one[0], other[0])
        assert np.allclose(one[1], other[1], atol=1e-6)
    with pytest.raises(InputError, match="embedding 0 has the length 2"):
        similar_pairs((2 * vectors).astype(dtype), 0.9)


def test_memory_map(tmp_path: Path) -> None:
    vectors = topics(1500).astype(np.float16)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    pairs, cosine, *_ = similar_pairs(mapped, 0.9)
    expected = similar_pairs(vectors, 0.9)
    assert np.array_equal(pairs, expected[0])
    assert np.array_equal(cosine, expected[1])


def test_what_cannot_be_searched_is_one_line() -> None:
    vectors = topics(100)
    for value, words in ((np.nan, "embedding 42 is not finite"), (np.inf, "embedding 42 is not finite")):
        broken = vectors.copy()
        broken[42, 3] = value
        with pytest.raises(InputError, match=words):
            similar_pairs(broken, 0.9)
    with pytest.raises(InputError, match="embedding 0 has the length 2, not 1"):
        similar_pairs(2 * vectors, 0.9)
    with pytest.raises(InputError, match="64 numbers each where 32 are expected"):
        cross_pairs(vectors, unit(vectors[:, :32]), 0.9)
    with pytest.raises(InputError, match="expected float16 or float32"):
        similar_pairs(vectors.astype(np.float64), 0.9)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="32 are expected"):
        nearest(vectors, vectors[:4, :32], 1)
    with pytest.raises(InputError, match="more than 50 pairs"):
        similar_pairs(vectors, -1, most=50)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_few_vectors(size: int) -> None:
    vectors = topics(40)[:size]
    pairs, cosine, *_ = similar_pairs(vectors, -1)
    assert len(pairs) == len(cosine) == size * (size - 1) // 2
    across, *_ = cross_pairs(vectors, vectors, -1)
    assert len(across) == size * size
