"""Which cluster a picture is in, and whether pictures of a reference set are in it too.

The image-based filter of Gadre et al., "DataComp: In search of the next generation of multimodal datasets", 2023,
appendix E: the pool's CLIP image embeddings are clustered by k-means (100,000 clusters of ViT-L/14 there), each
picture of a reference set (ImageNet's training set there) marks the cluster whose centroid is nearest, and pictures
in marked clusters are kept. Nearest means the largest inner product with the centroid as it is, the first of equal
ones, as in the code that made their subsets. Their caption rule, which goes with it, is a matter of the selection.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.captions import with_columns
from filters.clusters import nearest
from filters.errors import InputError
from filters.vectors import Floats, spread, vectors


def image_signals(table: pa.Table, centroids: Floats, reference: npt.NDArray[np.int32] | None = None) -> pa.Table:
    """`table` with `cluster` (int32) and `image_based` (bool): whether the cluster is one of `reference`, int32 [R].

    `table` has `image_embedding`, a fixed-size list of the width of `centroids`, float32 [K, D]. Both are null
    where a row has no embedding, `image_based` also without a `reference`. InputError for embeddings or centroids
    that are of another width or hold NaN, and for reference clusters that there are not.
    """
    _check(centroids)
    if reference is not None and len(reference) and not 0 <= reference.min() <= reference.max() < len(centroids):
        raise InputError(f"reference clusters lie outside 0 to {len(centroids) - 1}; they are of other centroids")
    found, present = vectors(table, centroids.shape[1])
    cluster = _nearest(found, centroids)
    marked = pa.nulls(len(present), pa.bool_())
    if reference is not None:
        marked = spread(np.isin(cluster, reference), present, pa.bool_())
    return with_columns(table, cluster=spread(cluster, present, pa.int32()), image_based=marked)


def reference_clusters(centroids: Floats, embeddings: Floats) -> npt.NDArray[np.int32]:
    """The clusters, int32 [R] in ascending order, that are nearest to one of `embeddings`, [N, D]."""
    _check(centroids)
    if embeddings.ndim != 2 or embeddings.shape[1] != centroids.shape[1]:
        raise InputError(
            f"reference embeddings are {list(embeddings.shape)}, centroids have {centroids.shape[1]} numbers a row"
        )
    if not np.isfinite(embeddings).all():
        raise InputError("reference embeddings hold NaN or infinity; embed the reference set again")
    return np.unique(_nearest(embeddings.astype(np.float32, copy=False), centroids))


def _nearest(embeddings: Floats, centroids: Floats) -> npt.NDArray[np.int32]:
    if not len(embeddings):
        return np.zeros(0, np.int32)
    return nearest(embeddings, centroids, 1)[:, 0]


def _check(centroids: Floats) -> None:
    if centroids.ndim != 2 or not centroids.size:
        raise InputError(f"centroids are an array {list(centroids.shape)}, expected [clusters, numbers a row]")
    if not np.isfinite(centroids).all():
        raise InputError("centroids hold NaN or infinity")
