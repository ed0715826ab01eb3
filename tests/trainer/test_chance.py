from __future__ import annotations

import numpy as np

from trainer.chance import Chance


def test_a_position_has_the_numbers_of_its_own_philox_generator() -> None:
    """Whatever was drawn before, halves of 64 bits included."""
    chance, other = Chance(3, 5), Chance(3, 5, stream=1)
    for position in (0, 9, 9, 2**40):
        own = np.random.Generator(np.random.Philox(key=[3, 5], counter=[0, 0, 0, position]))
        generator = chance.at(position)
        assert chance.is_untouched
        assert generator.integers(2**31, dtype=np.int32) == own.integers(2**31, dtype=np.int32)
        assert not chance.is_untouched
        np.testing.assert_array_equal(generator.random(7), own.random(7))
        assert not np.isin(other.at(position).random(9), chance.at(position).random(9)).any()


def test_a_whole_block_of_numbers_leaves_a_trace() -> None:
    chance = Chance(0, 0)
    chance.at(1).random(4)  # of the generator's buffer of four
    assert not chance.is_untouched
