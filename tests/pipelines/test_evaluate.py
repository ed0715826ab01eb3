"""Evaluate: when a result counts as done."""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluate import EvaluateConfig, _mark
from pipelines.store.root import Root


def test_a_corrected_label_makes_a_result_old(tmp_path: Path) -> None:
    """A label file keeps its length when a label is corrected, so sizes do not tell."""
    root, config = Root(str(tmp_path)), EvaluateConfig(root=str(tmp_path), reference="a")
    root.write_json({"config": {}, "sources": []}, "mixes", "model", "mix.lock.json")
    root.write_bytes(b"1", "eval", "a", "test", "0.tar")
    before = _mark(root, "model", config)
    assert before == _mark(root, "model", config)
    root.write_bytes(b"2", "eval", "a", "test", "0.tar")
    assert before != _mark(root, "model", config)


def test_a_changed_recipe_of_the_mixture_makes_a_result_old(tmp_path: Path) -> None:
    root, config = Root(str(tmp_path)), EvaluateConfig(root=str(tmp_path), reference="a")
    root.write_bytes(b"1", "eval", "a", "test", "0.tar")
    root.write_json({"config": {"where": None}, "sources": []}, "mixes", "model", "mix.lock.json")
    before = _mark(root, "model", config)
    root.write_json({"config": {"where": "true"}, "sources": []}, "mixes", "model", "mix.lock.json")
    assert before != _mark(root, "model", config)
