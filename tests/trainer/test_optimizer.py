from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from open_clip_train.scheduler import cosine_lr

from filters.errors import ModelError
from tests.trainer.small_models import Kind, small_config, small_model
from trainer.optimizer import learning_rate, load_optimizer, make_optimizer, parameter_groups, set_rate, step_if


@pytest.mark.parametrize(
    ("recipe", "warmup"),
    [({"warmup": 0.1}, 10), ({"warmup": 0.0}, 0), ({"warmup_samples": 16 * 7}, 7), ({"warmup_samples": 0}, 0)],
)
def test_the_rate_is_open_clips(recipe: dict[str, Any], warmup: int) -> None:
    config = small_config(**recipe)
    reference = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    adjust = cosine_lr(reference, config.lr, warmup, 100)
    for step in range(100):
        assert learning_rate(step, 100, config) == pytest.approx(adjust(step), rel=1e-12)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    config = small_config(warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(config.lr / 10)
    assert max(rates) == rates[9] == rates[10] == config.lr
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.001 * config.lr


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_what_decays_is_what_decays_in_open_clip(kind: Kind) -> None:
    model = small_model(kind, "siglip")
    exempt, decayed = parameter_groups(model, 0.2)
    assert (exempt["weight_decay"], decayed["weight_decay"]) == (0.0, 0.2)
    assert (exempt["rate"], decayed["rate"]) == (1.0, 1.0)
    names = {p: name for name, p in model.named_parameters()}
    free = {names[p] for p in exempt["params"]}
    assert {"logit_scale", "logit_bias", "ln_final.weight", "transformer.resblocks.0.attn.in_proj_bias"} <= free
    # open_clip goes by the name too: these are matrices, and decay
    kept = {names[p] for p in decayed["params"]}
    assert {"positional_embedding", "text_projection", "token_embedding.weight"} <= kept
    assert ("visual.bn1.weight" in free) is (kind == "resnet")
    assert len(exempt["params"]) + len(decayed["params"]) == len(names)


def test_locked_weights_are_in_no_group() -> None:
    model = small_model()
    model.lock_image_tower()
    held = {p for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert held == {p for name, p in model.named_parameters() if not name.startswith("visual.")}


def test_a_state_of_open_clips_optimizer_fits() -> None:
    model = small_model()
    groups: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]] = ([], [])
    for name, p in model.named_parameters():
        groups[p.ndim >= 2 and not any(s in name for s in ("bn", "ln", "bias", "logit_scale"))].append(p)
    settings: list[dict[str, Any]] = [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1]}]
    theirs = torch.optim.AdamW(settings)
    for p in model.parameters():
        p.grad = torch.full_like(p, p.numel())
    theirs.step()
    ours = make_optimizer(model, small_config())
    load_optimizer(ours, theirs.state_dict())
    for p, state in theirs.state.items():
        assert torch.equal(ours.state[p]["exp_avg"], state["exp_avg"])
        assert float(ours.state[p]["step"]) == 1
    set_rate(ours, 1e-3)
    step_if(torch.tensor(True), ours)
    assert float(ours.state[model.logit_scale]["step"]) == 2


def test_a_state_of_other_weights_is_refused() -> None:
    optimizer = make_optimizer(small_model(), small_config())
    state = make_optimizer(small_model("resnet"), small_config()).state_dict()
    with pytest.raises(ModelError, match="optimiser state: it has groups of"):
        load_optimizer(optimizer, state)


@pytest.mark.parametrize(("kind", "layers"), [("vit", 2), ("resnet", 4)])
def test_rates_fall_layer_by_layer(kind: Kind, layers: int) -> None:
    model = small_model(kind)
    names = {p: name for name, p in model.named_parameters()}
    rates = {names[p]: g["rate"] for g in parameter_groups(model, 0.1, 0.5) for p in g["params"]}
    assert rates.keys() == set(names.values())
    head, stem, layer = {
        "vit": ("visual.proj", "visual.class_embedding", "visual.transformer.resblocks.{}.ln_1.weight"),
        "resnet": ("visual.attnpool.c_proj.weight", "visual.bn3.weight", "visual.layer{}.0.conv1.weight"),
    }[kind]
    first = 0 if kind == "vit" else 1
    assert rates[head] == rates["logit_scale"] == rates["text_projection"] == rates["ln_final.bias"] == 1
    assert [rates[layer.format(first + i)] for i in range(layers)] == [0.5 ** (layers - i) for i in range(layers)]
    assert rates[stem] == 0.5 ** (layers + 1)
    assert rates["token_embedding.weight"] == rates["positional_embedding"] == 0.5**3
    assert rates["transformer.resblocks.1.mlp.c_proj.weight"] == 0.5

    optimizer = make_optimizer(model, small_config(layer_decay=0.5))
    set_rate(optimizer, 2e-3)
    assert {names[p]: g["lr"] for g in optimizer.param_groups for p in g["params"]} == {
        name: pytest.approx(2e-3 * rate) for name, rate in rates.items()
    }


def test_a_step_that_is_not_good_changes_nothing() -> None:
    model = small_model()
    optimizer = make_optimizer(model, small_config())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    step_if(torch.tensor(True), optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counted = [float(state["step"]) for state in optimizer.state.values()]
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    step_if(torch.tensor(False), optimizer)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [float(state["step"]) for state in optimizer.state.values()] == counted
    assert all(torch.isfinite(state["exp_avg"]).all() for state in optimizer.state.values())
