"""Classifier heads: against torch, and every way in which a file is none."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch import nn

from filters.errors import InputError
from filters.heads import Head, head_of, head_signals, load_head
from tests.filters.tables import embedding_table, is_extended

WIDTH = 8


def weights_of(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def seeded(model: nn.Module) -> nn.Module:
    rng = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            random = torch.randn(value.shape, generator=rng)
            value.copy_(random.abs() + 0.1 if name.endswith(("running_var", "variance")) else random)
    return model.eval()


def datacomp() -> nn.Module:
    """As the head of DataComp's metadata is built: batch normalisation without epsilon, ReLU, sigmoid."""
    layers = [("norm", nn.BatchNorm1d(WIDTH, eps=0.0)), ("dense", nn.Linear(WIDTH, 5)), ("relu", nn.ReLU())]
    layers += [("dense1", nn.Linear(5, 12)), ("relu1", nn.ReLU()), ("dense2", nn.Linear(12, 1))]
    return nn.Sequential(OrderedDict([*layers, ("sigmoid", nn.Sigmoid())]))


class Laion(nn.Module):
    """As LAION's head for ViT-H/14 is built: eleven modules and more, so that 10 comes after 9, the last two bare."""

    def __init__(self) -> None:
        super().__init__()
        modules: list[nn.Module] = [nn.Linear(WIDTH, 6), nn.ReLU(), nn.Dropout()]
        for _ in range(4):
            modules += [nn.Linear(6, 6), nn.ReLU(), nn.Dropout()]
        self.layers = nn.Sequential(*modules, nn.Linear(6, 4), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def embeddings(rows: int = 50) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(rows, WIDTH)).astype(np.float32)


def test_a_normalised_head_is_that_of_torch() -> None:
    model = seeded(datacomp())
    expected = model(torch.from_numpy(embeddings()))[:, 0].detach().numpy()
    assert head_of(weights_of(model), "w")(embeddings()) == pytest.approx(expected, abs=1e-5)


def test_a_bare_head_is_that_of_torch() -> None:
    model = seeded(Laion())
    raw = model(torch.from_numpy(embeddings()))[:, 0].detach()
    weights = weights_of(model)
    assert head_of(weights, "w", "linear")(embeddings()) == pytest.approx(raw.clip(0, 1).numpy(), abs=1e-5)
    assert head_of(weights, "w")(embeddings()) == pytest.approx(torch.sigmoid(raw).numpy(), abs=1e-5)


def test_laions_normalisation_is_read() -> None:
    """Keys as in LAION's torch conversion: norm.mean and norm.variance, linear_1 and on."""
    rng = np.random.default_rng(1)
    mean, variance = rng.normal(size=WIDTH), rng.uniform(0.5, 2, WIDTH)
    weight = rng.normal(size=(1, WIDTH))
    head = head_of({"norm.mean": mean, "norm.variance": variance, "linear_1.weight": weight}, "w")
    logits = ((embeddings() - mean) / np.sqrt(variance)) @ weight[0]
    assert head(embeddings()) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)


# One layer by hand: score of (1, 2) with weights and bias, after the output.
TRUTH = [
    ([0.0, 0.0], 0.0, "sigmoid", 0.5),
    ([1.0, 1.0], 0.0, "sigmoid", 1 / (1 + np.exp(-3.0))),
    ([0.0, 0.0], -200.0, "sigmoid", 0.0),
    ([0.0, 0.0], 200.0, "sigmoid", 1.0),
    ([0.1, 0.2], 0.1, "linear", 0.6),
    ([1.0, 1.0], 0.0, "linear", 1.0),
    ([-1.0, 0.0], 0.0, "linear", 0.0),
]


@pytest.mark.parametrize(("weight", "bias", "output", "score"), TRUTH)
def test_scores_by_hand(weight: list[float], bias: float, output: Any, score: float) -> None:
    weights = {"0.weight": np.array([weight], np.float32), "0.bias": np.array([bias], np.float32)}
    found = head_of(weights, "w", output)(np.array([[1, 2]], np.float32))
    assert found.dtype == np.float32
    assert found == pytest.approx([score], abs=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_holds_the_same_head(tmp_path: Path, suffix: str) -> None:
    weights = weights_of(seeded(Laion()))
    path = tmp_path / f"head{suffix}"
    if suffix == ".npz":
        np.savez(path, allow_pickle=False, **weights)
    else:
        save_file(weights, path)
    assert np.array_equal(load_head(path)(embeddings()), head_of(weights, "w")(embeddings()))


def matrix(*shape: int) -> npt.NDArray[np.float32]:
    return np.ones(shape, np.float32)


WRONG: list[tuple[dict[str, npt.NDArray[Any]], str]] = [
    ({}, "holds no layers"),
    ({"a.bias": matrix(3)}, "holds no layers"),
    ({"0.weight": matrix(4, 8), "2.weight": matrix(1, 5)}, r"2\.weight is \[1, 5\].*the layer before it gives 4"),
    ({"0.weight": matrix(1, 8), "0.bias": matrix(2)}, r"with bias \[2\]"),
    ({"0.weight": matrix(3, 8)}, "gives 3 numbers, expected one"),
    ({"0.weight": matrix(8)}, r"0\.weight is \[8\]"),
    ({"0.weight": np.array(1, np.float32)}, r"0\.weight is \[\]"),
    ({"0.weight": matrix(1, 8) * np.nan}, "NaN"),
    ({"0.weight": matrix(1, 8) * np.float64(1e300)}, "holds NaN"),
    ({"0.weight": np.ones((1, 8), np.int8)}, "int8"),
    ({"0.weight": matrix(1, 8), "position": matrix(3)}, "also holds position"),
    ({"0.weight": matrix(1, 8), "n.mean": matrix(8)}, "no positive variance"),
    ({"0.weight": matrix(1, 8), "n.mean": matrix(8), "n.variance": 0 * matrix(8)}, "no positive variance"),
    ({"0.weight": matrix(1, 8), "n.mean": matrix(7), "n.variance": matrix(7)}, "normalises 7 numbers.*takes 8"),
]


@pytest.mark.parametrize(("weights", "text"), WRONG)
def test_other_weights_are_refused(weights: dict[str, npt.NDArray[Any]], text: str) -> None:
    with pytest.raises(InputError, match=rf"^weights\.npz: .*{text}") as caught:
        head_of(weights, "weights.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "none.npz",
        "text.npz",
        "text.safetensors",
        "pickled.npz",
        "head.onnx",
        "head",
        "one.npz",
        "torch.npz",
        "empty.npz",
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pickled.npz":
        np.savez(path, weight=np.array([{}], object))
    elif name == "one.npz":
        with path.open("wb") as file:
            np.save(file, matrix(1, 8))
    elif name == "torch.npz":
        torch.save({"0.weight": torch.ones(1, 8)}, path)
    elif not name.startswith("none"):
        path.write_text("" if name.startswith("empty") else "not weights")
    with pytest.raises(InputError, match=str(path)) as caught:
        load_head(path)
    assert "\n" not in str(caught.value)


HEAD = head_of(weights_of(seeded(Laion())), "w")


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.lists(st.booleans(), max_size=12), st.integers(1, 5))
def test_rows_stay_and_only_the_score_is_added(present: list[bool], chunk: int) -> None:
    table = embedding_table(present, WIDTH, chunk)
    found = head_signals(table, HEAD)
    assert is_extended(found, table, {"nsfw_score": pa.float32()})
    assert [score is not None for score in found["nsfw_score"].to_pylist()] == present
    whole = HEAD(np.array([v for v in table["image_embedding"].to_pylist() if v], np.float32).reshape(-1, WIDTH))
    assert [s for s in found["nsfw_score"].to_pylist() if s is not None] == pytest.approx(whole.tolist(), abs=1e-6)


def test_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match="has 7 numbers a row, 8 are needed"):
        head_signals(embedding_table([True], 7, 1), HEAD)


def test_a_head_travels() -> None:
    import pickle

    twin: Head = pickle.loads(pickle.dumps(HEAD))
    assert np.array_equal(twin(embeddings()), HEAD(embeddings()))
