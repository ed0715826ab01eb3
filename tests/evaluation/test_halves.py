"""The halves of the concepts may never change: a study's choices and its report stand on them."""

from __future__ import annotations

from evaluation.halves import half_of, in_half


def test_golden_halves() -> None:
    names = ["cat", "dog", "fox", "hen", "sea", "cup", "oak", "bee"]
    assert [half_of(name) for name in names] == ["fit", "report", "fit", "report", "fit", "report", "report", "fit"]


def test_each_concept_is_in_one_half_and_they_are_about_as_large() -> None:
    names = [f"concept {n}" for n in range(1000)]
    fit, report = in_half(names, "fit"), in_half(names, "report")
    assert (fit != report).all()
    assert 450 < fit.sum() < 550  # three standard deviations
