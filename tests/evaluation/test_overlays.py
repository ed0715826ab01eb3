"""Overlays: what is shaded how, and captions of any script and length."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
from PIL import Image

from evaluation.overlays import SCALE, Piece, _lines, overlay, pair_png, pieces, rescaled
from filters.errors import InputError

TOKENIZER = open_clip.get_tokenizer("ViT-B-32")


def of_caption(text: str, values: list[float] | None = None) -> list[Piece]:
    row = TOKENIZER([text])[0]
    tokens = row[1 : int(row.argmax())].tolist()
    return pieces(TOKENIZER, tokens, values or [0.5] * len(tokens))


def decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.array(image.convert("RGB")).astype(int)


def test_darker_is_more_and_the_picture_stays_visible() -> None:
    pixels = np.full((4, 6, 3), 200, np.uint8)
    pixels[:, 3:] = 40
    shown = np.zeros((4, 6))
    shown[1, 1], shown[1, 4], shown[2, 1] = 1.0, 1.0, 0.5
    found = overlay(pixels, shown).astype(int)
    assert (np.ptp(found[0], axis=-1) == 0).all()  # grey where the map is 0
    assert found[1, 1].sum() < found[2, 1].sum() < found[0, 1].sum()
    assert found[1, 1, 0] > found[1, 1, 2]
    assert (found[0, 4] < found[0, 1]).all()
    assert found[1, 4].sum() < found[1, 1].sum()
    with pytest.raises(InputError, match="must be alike"):
        overlay(pixels, shown[:3])


def test_lightness_falls_all_along_the_scale() -> None:
    """So that it can be read without colours."""
    light = SCALE(np.linspace(0, 1, 64))[:, :3] @ (0.299, 0.587, 0.114)
    assert (np.diff(light) < 0).all()
    assert light[0] - light[-1] > 0.7


def test_pieces_of_a_word_are_joined() -> None:
    found = of_caption("a pictogram, naïve")
    assert [piece.text for piece in found] == ["a", "pic", "to", "gram", ",", "na", "ï", "ve"]
    assert [piece.joined for piece in found] == [False, False, True, True, False, False, True, True]


def test_tokens_that_are_one_character_are_one_piece() -> None:
    """Two Chinese signs are more tokens than two; a piece has the highest value of its own."""
    row = TOKENIZER(["睡觉 ok"])[0].tolist()
    tokens = row[1 : row.index(max(row))]
    values = [round(0.1 * (number + 1), 1) for number in range(len(tokens))]
    found = pieces(TOKENIZER, tokens, values)
    assert "".join(piece.text for piece in found) == "睡觉ok"
    assert len(found) < len(tokens)
    assert max(piece.value for piece in found) == values[-1]
    assert found[-1] == Piece("ok", values[-1])
    assert pieces(TOKENIZER, tokens[:1], [0.3]) == [Piece("\ufffd", 0.3)]  # cut in the middle of a sign


def test_other_tokenizers_are_asked_for_their_text() -> None:
    class Words:
        def decode(self, tokens: list[int]) -> str:
            return " ".join(f"w{token}" for token in tokens)

    assert pieces(Words(), [3, 5], [0.0, 1.0]) == [Piece("w3", 0.0), Piece("w5", 1.0)]


def test_rescaled() -> None:
    assert rescaled(np.array([0.2, 0.6, 0.4])).tolist() == pytest.approx([0, 1, 0.5])
    assert rescaled(np.array([0.3, 0.3])).tolist() == [0, 0]
    assert rescaled(np.zeros(0)).tolist() == []


def test_a_pair_is_a_picture_with_its_words_shaded() -> None:
    """Of two words one is as dark as the scale gets and one is white; the map's dark corner is where it was put."""
    pixels = np.full((32, 32, 3), 255, np.uint8)
    shown = np.zeros((32, 32))
    shown[:8, :8] = 1
    found = decoded(pair_png(pixels, shown, [Piece("red", 1.0), Piece("thing", 0.0)], cosine=0.3, title="a"))
    darkest = (np.array(SCALE(1.0)[:3]) * 255).round()
    marked = np.argwhere((np.abs(found - darkest) <= 2).all(-1))
    high, wide = found.shape[:2]
    in_map = marked[(marked[:, 0] < 0.75 * high)]
    assert (in_map[:, 1] > wide / 2).all()  # in the right one of the two pictures
    assert np.ptp(in_map[:, 0]) == pytest.approx(np.ptp(in_map[:, 1]), abs=3)
    in_words = marked[(marked[:, 0] > 0.75 * high) & (marked[:, 0] < 0.9 * high)]
    assert in_words[:, 1].min() < 0.06 * wide
    assert in_words[:, 1].max() < 0.12 * wide


def test_the_same_pair_is_the_same_file() -> None:
    pixels, shown = np.zeros((16, 16, 3), np.uint8), np.linspace(0, 1, 256).reshape(16, 16)
    words = [Piece("one", 0.1), Piece("two", 0.9)]
    assert pair_png(pixels, shown, words, cosine=0.1) == pair_png(pixels, shown, words, cosine=0.1)


def test_long_captions_take_more_lines_and_stay_inside() -> None:
    words = of_caption("an extraordinarily antidisestablishmentarianistic photograph of a naïve cat " * 4)
    lines = list(_lines(words))
    assert len(lines) > 3
    assert [piece for line in lines for piece, _, _ in line] == words
    for line in lines:
        ends = [left + width for _, left, width in line]
        starts = [left for _, left, _ in line]
        assert starts[0] == 0.25
        assert ends[-1] <= 8.6 - 0.25
        assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
    for following in lines[1:]:
        assert not following[0][0].joined  # words are not broken at the end of a line


@pytest.mark.parametrize("caption", ["", "$x^2$ costs $5 \\frac{", "猫在沙发上 🐈‍⬛ и кошка", "a\tb\x00c"])
def test_captions_of_any_kind_are_drawn(caption: str) -> None:
    """Without a warning about a missing glyph, and nothing is taken for mathematics."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    assert decoded(pair_png(pixels, np.zeros((16, 24)), of_caption(caption), cosine=-0.1, title=caption)).size
