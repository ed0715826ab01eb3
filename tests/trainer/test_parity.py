"""Our training step against open_clip_train's own: the same losses, gradients and weights.

The gradient's distance is the Euclidean norm of the difference over that of the reference's, all weights together.
In fp32 the reference's ResNet has our memory layout, channels last: another one rounds otherwise, and where that
changes the sign of a single number before a ReLU, the gradient changes by some 1e-3, on the reference's side as well.
In 64 bits it has its own.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import open_clip
import pytest
import torch

from benchmarks.open_clip_peer import Peer
from tests.trainer.small_models import CPU, Kind, distance, gradient, small_batch, small_config, small_model
from trainer.batch import Batch
from trainer.losses import initial_logits
from trainer.optimizer import learning_rate, load_optimizer
from trainer.step import TrainStep
from trainer.towers import is_convolutional

LossName = Literal["clip", "siglip"]
STEPS = 50
FLAGS = ["--model", "ViT-B-32", "--precision", "fp32", "--lr", "5e-4", "--warmup", "10"]


def both(model: open_clip.CLIP, loss: LossName, flags: list[str]) -> tuple[TrainStep, Peer]:
    """The two sides, with weights of their own and the same recipe."""
    siglip = ["--siglip"] if loss == "siglip" else []
    reference = copy.deepcopy(model)
    if reference.logit_scale.dtype == torch.float32 and is_convolutional(reference.visual):
        reference.to(memory_format=torch.channels_last)
    peer = Peer(reference, [*FLAGS, *siglip, *flags], device=CPU, steps=STEPS)
    args, recipe = peer.args, {"lr": 5e-4, "warmup_samples": 10 * 16, "loss": loss, "clip": 0}
    recipe |= {"wd": args.wd, "beta1": args.beta1, "beta2": args.beta2, "eps": args.eps}
    return TrainStep(model, small_config(**recipe), device=CPU, steps=STEPS), peer


def take(step: TrainStep, peer: Peer, batch: Batch, number: int) -> tuple[float, float]:
    """Each side's loss in a step of its own from where it stands."""
    ours = step(batch, learning_rate(number, STEPS, step.config))
    pixels = step.towers.pixels(batch.images)
    if pixels.dtype == torch.float64:
        pixels = pixels.contiguous()
    return float(ours.loss), peer.train([(pixels, batch.tokens)], 1)[0]


def compare_forced(model: open_clip.CLIP, loss: LossName, batches: list[Batch]) -> None:
    """At each step both start from the reference's weights and optimiser state."""
    step, peer = both(model, loss, [])
    for number, batch in enumerate(batches):
        step.model.load_state_dict(peer.model.state_dict())
        if number:
            load_optimizer(step.optimizer, copy.deepcopy(peer.optimizer.state_dict()))
        ours, theirs = take(step, peer, batch, number)
        assert ours == pytest.approx(theirs, abs=1e-5), number
        assert distance(gradient(step.model), gradient(peer.model)) < 1e-4, number
        assert step.optimizer.param_groups[0]["lr"] == pytest.approx(peer.optimizer.param_groups[0]["lr"])
        weights = [torch.cat([p.detach().flatten() for p in side.model.parameters()]) for side in (step, peer)]
        # A weight whose gradient is next to nothing moves by its sign, which rounding decides.
        assert float((weights[0] - weights[1]).norm() / weights[1].norm()) < 1e-5, number
        for (name, value), expected in zip(step.model.named_buffers(), peer.model.buffers(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("vit", "clip"),
        ("vit", "siglip"),
        ("resnet", "clip"),
        pytest.param("resnet", "siglip", marks=pytest.mark.slow),
    ],
)
def test_each_step_is_open_clips(kind: Kind, loss: LossName) -> None:
    compare_forced(small_model(kind, loss), loss, [small_batch(16, number) for number in range(STEPS)])


def test_a_step_with_clipping_is_open_clips() -> None:
    step, peer = both(small_model(), "clip", ["--grad-clip-norm", "0.5"])
    step.config = step.config.model_copy(update={"clip": 0.5})
    for number in range(3):
        ours, theirs = take(step, peer, small_batch(16, number), number)
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert distance(gradient(step.model), gradient(peer.model)) < 1e-4
        assert float(gradient(peer.model).norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(("kind", "limit"), [("vit", 1e-5), ("resnet", 1e-6)])
def test_fifty_steps_in_a_row_are_open_clips(kind: Kind, limit: float) -> None:
    """The ResNet in 64 bits: in 32 its statistics of few numbers blow rounding up."""
    model: Any = small_model(kind)
    if kind == "resnet":
        model = model.double()
    step, peer = both(model, "clip", [])
    for number in range(STEPS):
        ours, theirs = take(step, peer, small_batch(16, number), number)
        assert ours == pytest.approx(theirs, abs=limit), number


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_each_step_of_a_real_architecture_is_open_clips(name: str, loss: LossName) -> None:
    """Widths, depths and vocabulary are the real ones; pictures are small."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False, force_image_size=64, **initial_logits(loss))
    batches = [real_batch(model, 8, number) for number in range(STEPS)]
    compare_forced(model, loss, batches)


def real_batch(model: Any, count: int, seed: int) -> Batch:
    small = small_batch(count, seed)
    tokens = torch.zeros(count, model.context_length, dtype=torch.int64)
    tokens[:, : small.tokens.shape[1]] = small.tokens
    tokens[tokens == small.tokens.max()] = model.vocab_size - 1
    return Batch(small.images, tokens, small.sources, small.rows)
