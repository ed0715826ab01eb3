"""Test-time prompt tuning: a plain loop in float64 for every kind of tower; T1 to T13 are those of its page."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from evaluation import tpt
from evaluation.prompted import SharedPrefix, WholeTexts, prompted
from evaluation.tpt import Tuner, mean_entropy, tune
from evaluation.twin import frozen_twin
from filters.errors import InputError
from tests.evaluation.tpt_plain import (
    DIM,
    FIELDS,
    IDS,
    SHARED,
    WHOLE,
    assert_same,
    class_tokens,
    part,
    pictures,
    plain,
    small,
)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", [*SHARED, *WHOLE])
def test_it_is_a_plain_loop_over_pictures(kind: str, steps: int) -> None:
    """T1 and T2: all that is found, in float64."""
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


@pytest.mark.parametrize("steps", [1, 4])
def test_in_float32_too(steps: int) -> None:
    """T1 at the tolerances of its page: of a step by the gradient's sign, where that is not rounding."""
    model, views, tokens = small(), pictures(4, 20), class_tokens()
    expected = plain(model, views, tokens, keep=0.3, steps=steps)
    found = tune(model.float(), views.float(), tokens, keep=0.3, steps=steps)
    assert torch.equal(found.selected, expected.selected)
    for name, error in {"zero_shot_logits": 1e-4, "losses": 1e-5, "logits": 1e-3}.items():
        torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), rtol=0, atol=error)
    first, true = found.gradients[:, 0].double(), expected.gradients[:, 0]
    torch.testing.assert_close(first, true, rtol=0, atol=1e-4 * float(true.abs().max()))
    if steps == 1:
        clear = true.abs() > 1e-6 * true.abs().max()
        assert (found.context.double() - expected.context)[clear].abs().max() < 1e-6


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
    """T2."""
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
    """T3."""
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
    """T4."""
    model, tokens = SHARED[kind]().float(), class_tokens()
    with torch.no_grad():
        expected = functional.normalize(model.encode_text(tokens), dim=-1)  # all LENGTH tokens
    shared = Tuner(model, tokens)
    torch.testing.assert_close(shared.texts, expected, rtol=0, atol=1e-6)
    assert tokens[:, -1].max() == 0  # there is something to cut


@pytest.mark.parametrize("recipe", [{"steps": 0}, {"steps": 2, "lr": 0.0, "weight_decay": 0.0}])
def test_without_a_change_it_is_exactly_zero_shot(recipe: dict[str, Any]) -> None:
    """T5."""
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
    """T6."""
    model, tokens = small(), class_tokens()
    views = pictures(3, 1).expand(-1, 10, -1, -1, -1)
    found = tune(model, views, tokens, keep=0.5)
    torch.testing.assert_close(found.losses[:, 0], tpt.entropy(found.zero_shot_logits[:, 0]))


def test_a_small_step_makes_the_loss_smaller() -> None:
    """T7."""
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
    """T9."""
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
    """T13: of some pictures, and to what a plain loop predicts."""
    model, views, tokens = small(), pictures(40, 10, seed=1), class_tokens()
    found = tune(model, views, tokens, **recipe)
    flips = found.logits.argmax(dim=1) != found.zero_shot_logits[:, 0].argmax(dim=1)
    assert 0 < flips.sum() < 40
    rows = flips.nonzero()[:2, 0]
    expected = plain(model, views[rows], tokens, **recipe)
    assert torch.equal(found.logits[rows].argmax(dim=1), expected.logits.argmax(dim=1))


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
