"""Clusters and the image-based filter: by hand, against DataComp's rule, and what every signal promises."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.errors import InputError
from filters.image_based import image_signals, reference_clusters
from tests.filters.tables import embedding_table, is_extended, table_of

ADDED = {"cluster": pa.int32(), "image_based": pa.bool_()}
AXES = np.eye(3, dtype=np.float32)


def ids(*numbers: int) -> npt.NDArray[np.int32]:
    return np.array(numbers, np.int32)


# Embedding → nearest of the three axes, and whether that is in the reference list (1,).
TRUTH = [
    ([1.0, 0.0, 0.0], 0, False),
    ([0.0, 1.0, 0.0], 1, True),
    ([0.6, 0.0, 0.8], 2, False),
    ([-1.0, 0.0, 0.0], 1, True),  # the other two are equally near, the first of them counts
    ([0.5, 0.5, 0.1], 0, False),
    (None, None, None),
]


@pytest.mark.parametrize(("vector", "cluster", "based"), TRUTH)
def test_by_hand(vector: list[float] | None, cluster: int | None, based: bool | None) -> None:
    found = image_signals(table_of([vector], 3), AXES, ids(1))
    assert (found["cluster"].to_pylist(), found["image_based"].to_pylist()) == ([cluster], [based])


def test_centroids_count_as_they_are() -> None:
    """DataComp takes the largest inner product: a longer centroid wins where the angle would decide otherwise."""
    longer = AXES * np.array([[1], [3], [1]], np.float32)
    vector = [0.8, 0.6, 0.0]
    assert image_signals(table_of([vector], 3), AXES)["cluster"].to_pylist() == [0]
    assert image_signals(table_of([vector], 3), longer)["cluster"].to_pylist() == [1]


def test_the_rule_is_datacomps() -> None:
    """The argument of the largest inner product in fp32, row by row."""
    rng = np.random.default_rng(7)
    centroids = rng.normal(size=(40, 16)).astype(np.float32)
    table = embedding_table([True] * 300, 16, 64)
    vectors = np.array(table["image_embedding"].to_pylist(), np.float32)
    products = vectors.astype(np.float64) @ centroids.T
    best = np.sort(products, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-5
    found = np.array(image_signals(table, centroids)["cluster"].to_pylist())
    assert clear.mean() > 0.99
    assert np.array_equal(found[clear], products.argmax(axis=1)[clear])


def test_without_a_reference_nothing_is_said() -> None:
    found = image_signals(embedding_table([True, False], 3, 2), AXES)
    assert found["image_based"].to_pylist() == [None, None]
    assert is_extended(found, embedding_table([True, False], 3, 2), ADDED)
    assert image_signals(embedding_table([True], 3, 1), AXES, ids())["image_based"].to_pylist() == [False]


def test_reference_clusters_are_those_of_its_pictures() -> None:
    pictures = np.array([[0, 0, 1], [0.1, 0, 1], [1, 0, 0]], np.float32)
    found = reference_clusters(AXES, pictures)
    assert found.dtype == np.int32
    assert found.tolist() == [0, 2]
    assert reference_clusters(AXES, np.zeros((0, 3), np.float32)).tolist() == []
    assert reference_clusters(AXES, pictures.astype(np.float16)).tolist() == [0, 2]


def test_every_reference_picture_is_image_based() -> None:
    table = embedding_table([True] * 60, 8, 7)
    pictures = np.array(table["image_embedding"].to_pylist(), np.float32)
    centroids = np.random.default_rng(2).normal(size=(25, 8)).astype(np.float32)
    marked = reference_clusters(centroids, pictures[:20])
    based = image_signals(table, centroids, marked)["image_based"].to_pylist()
    assert all(based[:20])
    assert not all(based[20:])


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.booleans(), max_size=12), st.integers(1, 5))
def test_rows_stay_and_only_two_columns_are_added(present: list[bool], chunk: int) -> None:
    table = embedding_table(present, 3, chunk)
    found = image_signals(table, AXES, ids(0, 2))
    assert is_extended(found, table, ADDED)
    clusters = found["cluster"].to_pylist()
    assert [cluster is not None for cluster in clusters] == present
    assert found["image_based"].to_pylist() == [None if c is None else c != 1 for c in clusters]


WRONG = [
    (embedding_table([True], 4, 1), AXES, None, "has 4 numbers a row, 3 are needed"),
    (
        table_of([[1, 0, 0], None, [0, np.nan, 0], [np.inf, 0, 0]], 3, 2),
        AXES,
        None,
        r"2 rows hold NaN.*row 2 \(uid 0",
    ),
    (table_of([[1, 0, 0]], 3), np.full((2, 3), np.nan, np.float32), None, "centroids hold NaN"),
    (table_of([[1, 0, 0]], 3), AXES[0], None, r"an array \[3\]"),
    (table_of([[1, 0, 0]], 3), AXES[:0], None, r"an array \[0, 3\]"),
    (table_of([[1, 0, 0]], 3), AXES, ids(3), "outside 0 to 2"),
    (table_of([[1, 0, 0]], 3), AXES, ids(-1, 1), "outside 0 to 2"),
    (pa.table({"image_embedding": pa.array([[1.0]], pa.list_(pa.float16()))}), AXES, None, "fixed-size list"),
    (pa.table({"embedding": [1]}), AXES, None, "column `image_embedding` is needed"),
    (image_signals(table_of([[1, 0, 0]], 3), AXES), AXES, None, r"already has \['cluster', 'image_based'\]"),
    (pa.table({"image_embedding": pa.array([[1, 2, 3]], pa.list_(pa.int8(), 3))}), AXES, None, "fixed-size list"),
]


@pytest.mark.parametrize(("table", "centroids", "reference", "text"), WRONG)
def test_what_cannot_be_is_refused(
    table: pa.Table, centroids: npt.NDArray[np.float32], reference: npt.NDArray[np.int32] | None, text: str
) -> None:
    with pytest.raises(InputError, match=text) as caught:
        image_signals(table, centroids, reference)
    assert "\n" not in str(caught.value)


def test_a_null_inside_of_an_embedding_is_no_number() -> None:
    table = pa.table({"image_embedding": pa.array([[1.0, None, 0.0]], pa.list_(pa.float32(), 3))})
    with pytest.raises(InputError, match=r"1 rows hold NaN or infinity, the first is row 0$"):
        image_signals(table, AXES)


@pytest.mark.parametrize(
    ("embeddings", "text"),
    [(np.ones((2, 4)), r"\[2, 4\], centroids have 3"), (np.full((1, 3), np.inf), "NaN or infinity")],
)
def test_reference_embeddings_are_checked(embeddings: npt.NDArray[np.float32], text: str) -> None:
    with pytest.raises(InputError, match=text):
        reference_clusters(AXES, embeddings)
