from __future__ import annotations

import pytest
import torch
from open_clip.factory import create_model

from filters.errors import ConfigError
from tests.trainer.small_models import (
    CPU,
    SIDE,
    Kind,
    distance,
    gradient,
    make_step,
    small_batch,
    small_config,
    small_model,
)
from trainer.towers import Towers, is_convolutional, lock_towers, steady_statistics


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_locked_image_tower_does_not_change_and_the_text_tower_does() -> None:
    for kind in ("vit", "resnet"):
        step = make_step(small_model(kind), lock_image=True)
        before = {name: value.clone() for name, value in step.model.state_dict().items()}
        result = step(small_batch(16), 1e-3)
        changed = {name for name, value in step.model.state_dict().items() if not torch.equal(value, before[name])}
        assert "token_embedding.weight" in changed
        assert not any(name.startswith("visual.") for name in changed)  # nor a running mean
        assert float(result.grad_norm) > 0
        assert not step.model.visual.training


def test_a_locked_text_tower_does_not_change() -> None:
    step = make_step(small_model(), lock_text=True)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    step(small_batch(16), 1e-3)
    changed = {name for name, value in step.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("visual.")} | {"logit_scale"}


def test_the_last_groups_can_train() -> None:
    model = small_model()
    config = small_config(lock_image=True, lock_image_unlocked=2, lock_text=True, lock_text_unlocked=1)
    lock_towers(model, config)
    image = {name for name in trained_names(model) if name.startswith("visual.")}
    assert {"visual.proj", "visual.ln_post.weight", "visual.transformer.resblocks.1.ln_1.weight"} <= image
    assert not any("resblocks.0" in name or "conv1" in name for name in image)
    assert trained_names(model) - image == {"text_projection", "logit_scale"}


def test_a_lock_of_partly_open_towers_gives_the_gradient_of_what_trains() -> None:
    whole = make_step(small_model(), clip=0)
    locked = make_step(small_model(), clip=0, lock_image=True, lock_image_unlocked=1)
    for step in (whole, locked):
        step(small_batch(16), 1e-3)
    expected = dict(whole.model.named_parameters())
    for name, p in locked.model.named_parameters():
        if name in trained_names(locked.model):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, expected[name].grad, rtol=1e-4, atol=1e-6)
        else:
            assert p.grad is None


def test_impossible_locks_are_named() -> None:
    with pytest.raises(ConfigError, match="lock_image_unlocked: a ResNet"):
        lock_towers(small_model("resnet"), small_config(lock_image=True, lock_image_unlocked=1))
    with pytest.raises(ConfigError, match="nothing trains"):
        lock_towers(small_model(), small_config(lock_image=True, lock_text=True))


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_activation_checkpoints_change_neither_gradients_nor_statistics(kind: Kind) -> None:
    models = []
    for checkpoints in (False, True):
        step = make_step(small_model(kind), checkpoint_activations=checkpoints)
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            step(small_batch(16), 0.0)
        models.append((step.model, saved))
    (plain, much), (checkpointed, little) = models
    assert little < 0.7 * much
    assert distance(gradient(checkpointed), gradient(plain)) < 1e-6
    for (name, expected), (_, value) in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        torch.testing.assert_close(value, expected, msg=name)


def test_statistics_stay_where_they_are_told_to() -> None:
    layer = torch.nn.BatchNorm2d(3)
    assert layer.running_mean is not None
    layer(torch.randn(4, 3, 2, 2))
    before = layer.running_mean.clone()
    images = torch.randn(4, 3, 2, 2) + 1
    with steady_statistics(layer):
        steady = layer(images)
    assert torch.equal(layer.running_mean, before)
    assert layer.state_dict()["num_batches_tracked"] == 1
    assert torch.equal(layer(images), steady)
    assert layer.state_dict()["num_batches_tracked"] == 2


def test_pixels_are_normalised_as_the_model_says() -> None:
    model = small_model("resnet")
    towers = Towers(model, small_config(), CPU)
    pixels = towers.pixels(torch.full((2, 3, SIDE, SIDE), 255, dtype=torch.uint8))
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([(1 - 0.48) / 0.27, (1 - 0.46) / 0.26, 0.59 / 0.28]))
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert is_convolutional(model.visual)
    assert not is_convolutional(small_model().visual)


def test_in_half_precision_weights_and_features_stay_in_full() -> None:
    results = []
    for precision in ("fp32", "bf16"):
        step = make_step(small_model(), precision=precision, micro_batch=5)
        result = step(small_batch(16), 1e-3)
        assert {p.dtype for p in step.model.parameters()} == {torch.float32}
        assert (result.loss.dtype, result.each.dtype) == (torch.float32, torch.float32)
        results.append((float(result.loss), gradient(step.model)))
    assert results[1][0] == pytest.approx(results[0][0], rel=2e-2)
    assert results[1][0] != results[0][0]
    assert 1e-4 < distance(results[1][1], results[0][1]) < 5e-2


def test_a_hugging_face_like_or_timm_tower_of_open_clip_is_prepared() -> None:
    """A model that open_clip makes by name has what a step needs."""
    model = create_model("ViT-S-32-alt", load_weights=False)
    towers = Towers(model, small_config(lock_text=True), CPU)
    assert (towers.image_trains, towers.text_trains) == (True, False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo itself looks at it
def test_compiled_layers_give_the_same_gradients() -> None:
    found = []
    for compiled in (False, True):
        step = make_step(small_model(), compile=compiled)
        for number in range(3):
            step(small_batch(16, number), 0.0)
        found.append(gradient(step.model))
    assert distance(found[1], found[0]) < 1e-5
