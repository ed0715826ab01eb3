"""Two processes that train together are one process with the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.utils import freeze_batch_norm_2d
from torch import distributed
from torch.multiprocessing.spawn import spawn

from tests.trainer.small_models import CPU, gradient, part, small_batch, small_config, small_model
from trainer.ranks import Ranks
from trainer.step import TrainStep

WORLD, STEPS = 2, 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {}),
    "vit in passes": ("vit", {"micro_batch": 3}),
    "vit siglip": ("vit", {"loss": "siglip"}),
    "vit locked": ("vit", {"lock_image": True}),
    "resnet, frozen statistics": ("resnet", {}),
}


def run(name: str, ranks: Ranks) -> dict[str, torch.Tensor]:
    """What a process finds in a few steps: losses and norms of all steps, its own losses and gradient of the last."""
    kind, changes = CASES[name]
    model = small_model(kind, changes.get("loss", "clip"))  # type: ignore[arg-type]
    if kind == "resnet":
        model.visual = freeze_batch_norm_2d(model.visual)
    step = TrainStep(model, small_config(**changes), device=CPU, ranks=ranks, steps=STEPS)
    results = [step(part(small_batch(16, n), ranks.rank, ranks.world), 1e-3) for n in range(STEPS)]
    return {
        "loss": torch.stack([result.loss for result in results]),
        "norm": torch.stack([result.grad_norm for result in results]),
        "each": results[-1].each,
        "gradient": gradient(model),
    }


def statistics(ranks: Ranks) -> torch.Tensor:
    """Of a ResNet in training, after a step."""
    model = small_model("resnet")
    step = TrainStep(model, small_config(), device=CPU, ranks=ranks, steps=STEPS)
    step(part(small_batch(16), ranks.rank, ranks.world), 1e-3)
    return running_mean(model)


def running_mean(model: open_clip.CLIP) -> torch.Tensor:
    return torch.as_tensor(model.visual.bn1.running_mean)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    try:
        ranks = Ranks.current()
        found = {name: run(name, ranks) for name in CASES}
        torch.save({"cases": found, "statistics": statistics(ranks)}, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=WORLD)  # type: ignore[no-untyped-call]
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_are_one(name: str, of_two: list[dict[str, Any]]) -> None:
    alone = run(name, Ranks())
    both = [found["cases"][name] for found in of_two]
    for key in ("loss", "norm", "gradient"):
        assert torch.equal(both[0][key], both[1][key]), key
    torch.testing.assert_close(both[0]["loss"], alone["loss"], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[0]["norm"], alone["norm"], rtol=1e-4, atol=0)
    assert float((both[0]["gradient"] - alone["gradient"]).norm() / alone["gradient"].norm()) < 1e-4
    each = torch.stack([found["each"] for found in both], dim=1).flatten()  # rows r::R of the batch
    torch.testing.assert_close(each, alone["each"], rtol=1e-4, atol=1e-4)


def test_running_statistics_are_the_mean_of_both_processes(of_two: list[dict[str, Any]]) -> None:
    assert torch.equal(of_two[0]["statistics"], of_two[1]["statistics"])
    parts = []
    for rank in range(WORLD):
        model = small_model("resnet")
        TrainStep(model, small_config(), device=CPU, steps=1)(part(small_batch(16), rank, WORLD), 1e-3)
        parts.append(running_mean(model))
    torch.testing.assert_close(of_two[0]["statistics"], (parts[0] + parts[1]) / 2)
