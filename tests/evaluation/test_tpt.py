"""Test-time prompt tuning: equal to a plain loop in float64 for every kind of tower, and the model left as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip import CustomTextCLIP
from torch.nn import functional

from evaluation import tpt
from evaluation.frozen import frozen_twin
from evaluation.prompted import SharedPrefix, WholeTexts, prompted
from evaluation.tpt import Tuned, Tuner, mean_entropy, tune
from filters.errors import HeadwaterError, InputError, ModelError
from tests.evaluation.tpt_plain import (
    CONTEXT,
    DIM,
    LENGTH,
    RESNET,
    SHARED,
    SIDE,
    WHOLE,
    class_tokens,
    coca,
    pictures,
    small,
    tune_one,
)
from trainer.model import ClipModel
from trainer.packed import pack_layers

IDS = torch.tensor(CONTEXT)
FIELDS = [field.name for field in dataclasses.fields(Tuned)]


def assert_same(found: Tuned, expected: Tuned, tolerance: float = 1e-10) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance)


def part(tuned: Tuned, rows: Any) -> Tuned:
    return Tuned(**{name: getattr(tuned, name)[rows] for name in FIELDS})


def plain(model: ClipModel, views: torch.Tensor, tokens: torch.Tensor, **recipe: Any) -> Tuned:
    each = [tune_one(model, one, tokens, IDS, **recipe) for one in views]
    return Tuned(**{name: torch.stack([getattr(one, name) for one in each]) for name in FIELDS})


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [*SHARED, *WHOLE])
def test_it_is_a_plain_loop_over_pictures(kind: str, steps: int) -> None:
    model = {**SHARED, **WHOLE}[kind]()
    tokens = class_tokens()
    twin = frozen_twin(model)
    assert type(prompted(twin, tokens, range(1, 5))) is (SharedPrefix if kind in SHARED else WholeTexts)
    views = pictures(3, 12)
    found = tune(model, views, tokens, keep=0.3, steps=steps)
    assert found.selected.shape == (3, 3)
    assert found.gradients.abs().amax(dim=(2, 3)).min() > 1e-4  # otherwise there would be nothing to compare
    # A step is by the gradient's sign: 1e-10 would not bear a gradient of 1e-17 instead of 0.
    assert_same(found, plain(model, views, tokens, keep=0.3, steps=steps), 1e-9)


def test_a_tokenizer_without_a_start_of_text_token() -> None:
    model = WHOLE["sees all, takes the last"]()
    views, tokens = pictures(2, 10), class_tokens(sot=False)
    found = tune(model, views, tokens, context_length_tokens=range(4))
    assert_same(found, plain(model, views, tokens), 1e-9)
    with pytest.raises(InputError, match=r"column 4 .* no start-of-text token, pass a range"):
        tune(model, views, tokens)


@pytest.mark.parametrize("kind", ["CLIP", "other blocks", "CoCa"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_neither_chunks_nor_memory_change_the_result(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, views, tokens = {**SHARED, **WHOLE}[kind](), pictures(3, 10), class_tokens()
    expected = tune(model, views, tokens, steps=2)
    assert_same(tune(model, views, tokens, steps=2, chunk=chunk), expected)
    monkeypatch.setattr(tpt, "_BYTES", 50_000 * chunk)
    assert_same(tune(model, views, tokens, steps=2), expected)


def test_pictures_know_nothing_of_each_other() -> None:
    model, views, tokens = small(), pictures(5, 10), class_tokens()
    whole = tune(model, views, tokens, steps=3)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_same(tune(model, views[order], tokens, steps=3), part(whole, order))
    assert_same(tune(model, views[2:3], tokens, steps=3), part(whole, slice(2, 3)))


def test_classes_are_in_the_callers_order() -> None:
    model, views, tokens = small(), pictures(2, 10), class_tokens()
    order = torch.tensor([6, 2, 0, 4, 1, 3, 5])
    found, moved = tune(model, views, tokens), tune(model, views, tokens[order])
    torch.testing.assert_close(moved.logits, found.logits[:, order])
    torch.testing.assert_close(moved.context, found.context)


def test_one_step_has_a_closed_form() -> None:
    model, views, tokens = small(), pictures(4, 10), class_tokens()
    start, lr, decay = model.token_embedding.weight[IDS].detach(), 5e-3, 0.01
    found = tune(model, views, tokens)
    gradient = found.gradients[:, 0]
    expected = start * (1 - lr * decay) - lr * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(found.context, expected, rtol=0, atol=1e-15)
    # So nearly every number moves by lr exactly.
    moved = (found.context - start * (1 - lr * decay)).abs()
    assert (moved - lr).abs().median() < 1e-7


@pytest.mark.parametrize("kind", ["CLIP", "custom text", "linear projection"])
def test_a_shared_prefix_gives_the_features_of_whole_texts(kind: str) -> None:
    model, tokens = SHARED[kind]().float(), class_tokens()
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(tokens), dim=-1)  # all LENGTH tokens
    shared = Tuner(model, tokens)
    torch.testing.assert_close(shared.texts, expected, rtol=0, atol=1e-6)
    assert tokens[:, -1].max() == 0  # there is something to cut


@pytest.mark.parametrize("recipe", [{"steps": 0}, {"steps": 2, "lr": 0.0, "weight_decay": 0.0}])
def test_without_a_change_it_is_exactly_zero_shot(recipe: dict[str, Any]) -> None:
    model, views, tokens = small().float(), pictures(3, 10), class_tokens()
    found = tune(model, views, tokens, **recipe)
    assert torch.equal(found.logits, found.zero_shot_logits[:, 0])
    assert torch.equal(found.context, model.token_embedding.weight[IDS].expand(3, -1, -1))
    assert found.losses.shape == (3, recipe["steps"])
    assert found.gradients.shape == (3, recipe["steps"], len(IDS), 32)
    with torch.no_grad():
        images = model.encode_image(views.flatten(0, 1).float(), normalize=True).view(3, 10, -1)
        expected = model.logit_scale.exp() * images @ model.encode_text(tokens, normalize=True).T
    torch.testing.assert_close(found.zero_shot_logits, expected, rtol=0, atol=1e-4)


def test_of_equal_views_the_loss_is_the_entropy_of_one() -> None:
    model, tokens = small(), class_tokens()
    views = pictures(3, 1).expand(-1, 10, -1, -1, -1)
    found = tune(model, views, tokens, keep=0.5)
    torch.testing.assert_close(found.losses[:, 0], tpt.entropy(found.zero_shot_logits[:, 0]))


def test_a_small_step_makes_the_loss_smaller() -> None:
    found = tune(small(), pictures(8, 10), class_tokens(), steps=2, lr=1e-5, weight_decay=0, keep=0.3)
    assert (found.losses[:, 1] < found.losses[:, 0]).all()


def test_the_most_confident_views_are_kept_best_first() -> None:
    found = tune(small(), pictures(4, 12), class_tokens(), keep=0.5)
    sizes = tpt.entropy(found.zero_shot_logits)
    torch.testing.assert_close(sizes.gather(1, found.selected), sizes.sort(dim=1).values[:, :6])


@pytest.mark.parametrize(("views", "keep", "kept"), [(64, 0.1, 6), (10, 0.1, 1), (5, 0.5, 2), (3, 1.0, 3)])
def test_how_many_views_are_kept(views: int, keep: float, kept: int) -> None:
    assert tune(small(), pictures(1, views), class_tokens(), keep=keep).selected.shape == (1, kept)


def test_entropy_of_the_mean_is_bounded_and_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-4, 1.0, 30.0, 1e4):
        logits = (torch.randn(50, 6, 9, generator=generator) * scale).clamp(-1e4, 1e4).requires_grad_()
        found = mean_entropy(logits)
        assert (found >= -1e-6).all()
        assert (found <= math.log(9) + 1e-6).all()
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        assert gradient.isfinite().all()
    far = torch.full((2, 3), -1e4)
    far[0, 0] = far[1, 1] = 1e4
    assert mean_entropy(far).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("recipe", [{}, {"keep": 0.5, "steps": 4}])
def test_it_changes_what_is_predicted(recipe: dict[str, Any]) -> None:
    model, views, tokens = small(), pictures(40, 10, seed=1), class_tokens()
    found = tune(model, views, tokens, **recipe)
    flips = found.logits.argmax(dim=1) != found.zero_shot_logits[:, 0].argmax(dim=1)
    assert 0 < flips.sum() < 40
    rows = flips.nonzero()[:2, 0]
    expected = plain(model, views[rows], tokens, **recipe)
    assert torch.equal(found.logits[rows].argmax(dim=1), expected.logits.argmax(dim=1))


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


def test_features_may_be_kept_and_the_tuner_used_again() -> None:
    model, views, tokens = small(), pictures(4, 10), class_tokens()
    tuner = Tuner(model, tokens)
    features = tuner.features(views)
    expected = tune(model, views, tokens)
    assert_same(tuner.tune(features), expected)
    assert_same(tuner.tune(3 * features[2:]), part(expected, slice(2, 4)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_near(dtype: torch.dtype) -> None:
    model, views, tokens = small(), pictures(4, 10), class_tokens()
    expected = tune(model, views, tokens)
    found = tune(model.to(dtype), views, tokens)
    assert {getattr(found, name).dtype for name in FIELDS if name != "selected"} == {torch.float32}
    error = 1e-3 if dtype == torch.float32 else 1.0
    torch.testing.assert_close(found.zero_shot_logits.double(), expected.zero_shot_logits, rtol=0, atol=error)
    if dtype == torch.float32:
        assert torch.equal(found.selected, expected.selected)
        torch.testing.assert_close(found.logits.double(), expected.logits, rtol=0, atol=error)
    assert found.logits.isfinite().all()


@pytest.mark.parametrize("threads", [1, 2])
def test_many_views_in_float32_go_through_packed_layers(threads: int) -> None:
    model, views, tokens = small().float(), pictures(3, 50).float(), class_tokens()
    with torch.no_grad():
        expected = model.encode_image(views.flatten(0, 1), normalize=True).view(3, 50, DIM)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tuner = Tuner(model, tokens)
        for _ in range(2):  # the second time they are packed already
            torch.testing.assert_close(tuner.features(views), expected, rtol=0, atol=1e-5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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
