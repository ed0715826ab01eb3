from __future__ import annotations

import numpy as np
import pytest

from trainer.texts import training_chunks

LENGTHS = np.random.default_rng(0).integers(3, 78, 200)


@pytest.mark.parametrize("overhead", [0, 128, 100_000])
@pytest.mark.parametrize("most", [77, 1000, 77 * 200])
def test_each_text_is_in_one_chunk_that_is_long_enough(overhead: int, most: int) -> None:
    chunks = list(training_chunks(LENGTHS, 77, most_tokens=most, multiple=8, overhead=overhead))
    assert sorted(np.concatenate([rows for rows, _ in chunks]).tolist()) == list(range(200))
    for rows, length in chunks:
        assert LENGTHS[rows].max() <= length
        assert length % 8 == 0 or length == 77
        assert len(rows) * length <= most or len(rows) == 1


def test_a_dear_chunk_makes_few_and_a_cheap_one_many() -> None:
    counts = []
    for overhead in (0, 500, 100_000):
        chunks = training_chunks(LENGTHS, 77, most_tokens=77 * 200, multiple=1, overhead=overhead)
        counts.append(len(list(chunks)))
    assert counts[0] == len(np.unique(LENGTHS))
    assert counts[0] > counts[1] > counts[2] == 1
