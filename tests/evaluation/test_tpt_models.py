"""Test-time prompt tuning and the models it is asked about: left as they were (T10), and what is refused (T8)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip import CustomTextCLIP
from torch.nn import functional

from evaluation.tpt import Tuner, tune
from filters.errors import HeadwaterError, InputError, ModelError
from tests.evaluation.tpt_plain import (
    DIM,
    LENGTH,
    RESNET,
    SHARED,
    SIDE,
    WHOLE,
    assert_same,
    class_tokens,
    coca,
    pictures,
    small,
)
from trainer.model import ClipModel
from trainer.packed import pack_layers


def state(model: ClipModel) -> tuple[Any, ...]:
    """All of a model that a method could have changed."""
    weights = {name: hashlib.sha256(v.detach().numpy().tobytes()).digest() for name, v in model.state_dict().items()}
    parameters = [(id(p), p.requires_grad, p.grad is None) for p in model.parameters()]
    modules = [
        (id(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), sorted(vars(m)))
        for m in model.modules()
    ]
    return weights, parameters, modules, torch.get_rng_state().tolist(), torch.is_grad_enabled()


def break_optimizer(*_: Any, **__: Any) -> None:
    raise RuntimeError("broken on purpose")


@pytest.mark.parametrize("kind", ["CLIP", "ResNet", "other blocks", "CoCa"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(kind: str, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T10: weights to the last bit, and no weight has a gradient; also after an error."""
    model = {**SHARED, **WHOLE}[kind]().train()
    model.logit_scale.requires_grad_(False)
    before = state(model)
    if fails:
        monkeypatch.setattr(torch.optim.AdamW, "step", break_optimizer)
        with pytest.raises(RuntimeError, match="on purpose"):
            tune(model, pictures(2, 10), class_tokens())
    else:
        tune(model, pictures(2, 10), class_tokens(), steps=2)
    assert state(model) == before


def test_the_model_is_left_as_it_was_when_a_tower_fails() -> None:
    model = small()

    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    model.visual.register_forward_pre_hook(fail)
    before = state(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        tune(model, pictures(2, 10), class_tokens())
    assert state(model) == before


def test_modes_of_the_model_and_of_the_caller_do_not_matter() -> None:
    model, views, tokens = small(vision={**RESNET}), pictures(2, 10), class_tokens()
    expected = tune(model, views, tokens, steps=2)
    model.train()
    model.set_grad_checkpointing()
    assert_same(tune(model, views, tokens, steps=2), expected)
    with torch.inference_mode():
        assert_same(tune(model, views.clone(), tokens.clone(), steps=2), expected)
    with torch.no_grad():
        assert_same(tune(model, views, tokens, steps=2), expected)


class OtherTower(torch.nn.Module):
    """A text tower that keeps its embeddings elsewhere, as those of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = torch.nn.ModuleDict({"embeddings": torch.nn.Embedding(200, DIM)})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.transformer["embeddings"](tokens).sum(dim=1)
        return found


def other_tower() -> ClipModel:
    model = small(CustomTextCLIP)
    model.text = OtherTower().double()
    return model


def packed() -> ClipModel:
    model = small().float()
    pack_layers(model)
    return model


def broken() -> ClipModel:
    model = small()
    torch.nn.init.constant_(model.text_projection, math.nan)
    return model


def with_nan(views: torch.Tensor) -> torch.Tensor:
    views[1, 3, 0, 5, 5] = math.nan
    return views


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (other_tower, ModelError, "the text tower OtherTower has no token embedding"),
        (packed, ModelError, "packed for inference"),
        (broken, ModelError, "the text features of class 0 are not finite"),
    ],
)
def test_models_that_cannot_be_tuned(make: Callable[[], ClipModel], error: type[HeadwaterError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        tune(make(), pictures(1, 10), class_tokens())
    assert "\n" not in str(caught.value)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": (
        {"views": with_nan(pictures(2, 10))},
        r"picture 1, view 3: its features are not finite \(1 of 20 views\)",
    ),
    "one class": ({"class_tokens": class_tokens((1,))}, "1 class: .* two or more"),
    "too few views": ({"views": pictures(2, 9)}, "keep 0.1 of 9 views leaves none"),
    "keep too small": ({"keep": 0.0}, "keep 0.0 of 10 views"),
    "keep too large": ({"keep": 1.5}, "keep 1.5 of 10 views"),
    "size": ({"views": pictures(2, 10)[..., :-1]}, rf"expected \[pictures, views, 3, {SIDE} x {SIDE}\]"),
    "no batch": ({"views": pictures(2, 10)[0]}, "expected .pictures, views, 3"),
    "no pictures": ({"views": pictures(2, 10)[:0]}, "nothing to tune for"),
    "no views": ({"views": pictures(2, 10)[:, :0]}, "nothing to tune for"),
    "long tokens": ({"class_tokens": functional.pad(class_tokens(), (0, 1))}, rf"{LENGTH + 1} columns, .* {LENGTH};"),
    "float tokens": ({"class_tokens": class_tokens().float()}, "expected int64"),
    "unknown tokens": ({"class_tokens": class_tokens() + 100}, "tokens reach from 100 to 219, .* knows 120"),
    "context of none": ({"context_length_tokens": 0}, r"range\(1, 1\)"),
    "context too long": ({"context_length_tokens": 5}, "column 5 .* is not the same for all classes"),
    "no name": ({"class_tokens": class_tokens()[:, [0, 1, 2, 3, 4, 15]]}, "ends within the context"),
    "steps": ({"steps": -1}, "steps -1"),
    "lr": ({"lr": math.nan}, "lr nan"),
    "chunk": ({"chunk": 0}, "chunk is 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_line(name: str) -> None:
    """T8 is "too few views"."""
    arguments, says = WRONG[name]
    with pytest.raises(InputError, match=says) as caught:
        tune(**{"model": small(), "views": pictures(2, 10), "class_tokens": class_tokens(), **arguments})
    assert "\n" not in str(caught.value)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=rf"features of views are \[2, 10, {DIM + 1}\]; expected .* {DIM}\]"):
        Tuner(small(), class_tokens()).tune(torch.randn(2, 10, DIM + 1))


def test_towers_that_see_all_need_texts_of_full_length() -> None:
    with pytest.raises(InputError, match="columns, but the model reads"):
        tune(small(coca), pictures(1, 10), class_tokens()[:, :-1])
    found = tune(small(), pictures(1, 10), class_tokens()[:, :-1])
    assert_same(found, tune(small(), pictures(1, 10), class_tokens()))
