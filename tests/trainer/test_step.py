from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch

from filters.errors import ConfigError, InputError
from tests.trainer.small_models import (
    CPU,
    Kind,
    distance,
    gradient,
    make_step,
    part,
    small_batch,
    small_config,
    small_model,
)
from trainer import step as step_module
from trainer.step import TrainStep

LossName = Literal["clip", "siglip"]


def statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_buffers() if "running" in name or "tracked" in name}


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_passes_of_few_pairs_are_one_step_of_the_whole_batch(loss: LossName) -> None:
    results = []
    for micro_batch in (None, 16, 5, 1):
        step = make_step(small_model("vit", loss), loss=loss, micro_batch=micro_batch)
        result = step(small_batch(16), 1e-3)
        results.append((result, gradient(step.model)))
    whole, expected = results[0]
    for result, found in results[1:]:
        torch.testing.assert_close(result.each, whole.each, rtol=1e-5, atol=1e-5)
        assert float(result.loss) == pytest.approx(float(whole.loss), abs=1e-5)
        assert distance(found, expected) < 1e-5


def test_most_memory_of_a_step_of_few_pairs_is_that_of_few_pairs() -> None:
    largest = []
    for micro_batch in (None, 4):
        step = make_step(small_model(), micro_batch=micro_batch)
        kept = most = 0

        class Held:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal kept, most
                self.tensor = tensor
                kept += tensor.numel()
                most = max(most, kept)

            def __del__(self) -> None:
                nonlocal kept
                kept -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            step(small_batch(16), 1e-3)
        largest.append(most)
    # of both towers the last of four pieces is kept, and one more is computed anew
    assert largest[1] < 0.6 * largest[0]


def test_batch_norm_counts_each_pass_once() -> None:
    step = make_step(small_model("resnet"), micro_batch=6)
    reference = copy.deepcopy(step.model).train()
    batch = small_batch(16)
    step(batch, 0.0)
    with torch.no_grad():
        for rows in (slice(0, 6), slice(6, 12), slice(12, 16)):
            reference.encode_image(step.towers.pixels(batch.images[rows]))
    expected = statistics(reference)
    assert int(expected["visual.bn1.num_batches_tracked"]) == 3
    for name, value in statistics(step.model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_batch_norm_takes_the_statistics_of_each_pass() -> None:
    """The gradient of features cached by piece is that of one graph over the same pieces."""
    step = make_step(small_model("resnet"), micro_batch=8, clip=0)
    reference = copy.deepcopy(step.model).train()
    batch = small_batch(16)
    step(batch, 0.0)
    images = torch.cat([reference.encode_image(step.towers.pixels(batch.images[i : i + 8])) for i in (0, 8)])
    images = torch.nn.functional.normalize(images, dim=-1)
    texts = reference.encode_text(batch.tokens, normalize=True)
    logits = reference.logit_scale.exp() * images @ texts.T
    targets = torch.arange(16)
    entropy = torch.nn.functional.cross_entropy
    torch.autograd.backward((entropy(logits, targets) + entropy(logits.T, targets)) / 2)
    assert distance(gradient(step.model), gradient(reference)) < 1e-5


def test_a_pass_computed_twice_draws_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With patches left out at random, the gradient would be of other features if they were drawn anew."""
    found = []
    for micro_batch in (4, None):
        model = small_model(patch_dropout=0.5)
        step = make_step(model, micro_batch=micro_batch, clip=0)
        if micro_batch is None:  # the same pieces, their graphs kept
            step.config = small_config(micro_batch=4, clip=0)
            made = list(step._image_pieces(small_batch(16)))
            step.config = small_config(clip=0)
            monkeypatch.setattr(step, "_image_pieces", lambda batch, made=made: iter(made))
        torch.manual_seed(3)
        step(small_batch(16), 0.0)
        found.append((gradient(model), torch.rand(1)))
    assert distance(found[0][0], found[1][0]) < 1e-5
    assert torch.equal(found[0][1], found[1][1])  # and what comes after goes on as if it had been computed once


def test_rows_of_cosines_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for loss in ("clip", "siglip"):
        found = []
        for table in (1 << 28, 16 * 3):
            monkeypatch.setattr(step_module, "_TABLE", table)
            step = make_step(small_model("vit", loss), loss=loss)
            result = step(small_batch(16), 1e-3)
            found.append((result.each, gradient(step.model)))
        torch.testing.assert_close(found[1][0], found[0][0])
        assert distance(found[1][1], found[0][1]) < 1e-6


def test_texts_are_not_cut_where_that_would_change_them() -> None:
    """A tower that sees later tokens has them all."""
    for text in ({"no_causal_mask": True}, {"pool_type": "last"}, {}):
        model = small_model(text=text)
        step = make_step(model, clip=0)
        lengths = {piece.encode.args[1] for piece in step._text_pieces(small_batch(16))}  # type: ignore[attr-defined]
        assert (lengths == {24}) is bool(text)
        reference = copy.deepcopy(model).train()
        result = step(small_batch(16), 1e-3)
        images, texts, scale = reference(step.towers.pixels(small_batch(16).images), small_batch(16).tokens)
        each = torch.nn.functional.cross_entropy(scale * images @ texts.T, torch.arange(16), reduction="none")
        each += torch.nn.functional.cross_entropy(scale * texts @ images.T, torch.arange(16), reduction="none")
        torch.testing.assert_close(result.each, each / 2, rtol=1e-5, atol=1e-5)


def test_a_gradient_is_clipped_to_the_norm_that_is_asked() -> None:
    step = make_step(small_model(), clip=0.5)
    result = step(small_batch(16), 1e-3)
    assert float(result.grad_norm) > 0.5
    assert float(gradient(step.model).norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_temperature_stays_in_its_bounds() -> None:
    step = make_step(small_model())
    for start, bound in ((10.0, math.log(100)), (-1.0, 0.0)):
        step.model.logit_scale.data.fill_(start)
        step(small_batch(16), 0.0)
        assert float(step.model.logit_scale.detach()) == pytest.approx(bound)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights(broken: str) -> None:
    step = make_step(small_model())
    step(small_batch(16), 1e-3)
    weight = step.model.visual.proj if broken == "loss" else step.model.text_projection
    if broken == "loss":
        weight.data[0, 0] = math.inf
    else:
        weight.register_hook(lambda found: found * math.inf)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    moments = copy.deepcopy(step.optimizer.state_dict()["state"])
    result = step(small_batch(16, 1), 1e-3)
    assert not math.isfinite(result.loss if broken == "loss" else result.grad_norm)
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())
    after = step.optimizer.state_dict()["state"]
    assert all(torch.equal(state[key], moments[i][key]) for i, state in after.items() for key in state)


def test_a_double_precision_model_stays_one() -> None:
    step = make_step(small_model("resnet").double())
    result = step(small_batch(16), 1e-3)
    assert (result.loss.dtype, result.each.dtype, result.grad_norm.dtype) == (torch.float64,) * 3
    assert {p.grad.dtype for p in step.model.parameters() if p.grad is not None} == {torch.float64}


def test_evaluation_between_steps_does_not_matter() -> None:
    step = make_step(small_model("resnet"))
    step.model.eval()
    step(small_batch(16), 1e-3)
    assert int(step.model.visual.bn1.num_batches_tracked) == 1


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ConfigError, match="siglip needs a model with a logit bias"):
        make_step(small_model(), loss="siglip")
    with pytest.raises(InputError, match="at least one pair"):
        make_step(small_model())(part(small_batch(2), 5, 9), 1e-3)


def run(kind: Kind, **changes: Any) -> torch.Tensor:
    step = TrainStep(small_model(kind), small_config(**changes), device=CPU, steps=10)
    return torch.stack([step(small_batch(16, number), 1e-3).loss for number in range(3)])


def test_a_repeat_is_the_same_bit_for_bit() -> None:
    assert torch.equal(run("resnet"), run("resnet"))
    assert torch.equal(run("vit", micro_batch=5), run("vit", micro_batch=5))
