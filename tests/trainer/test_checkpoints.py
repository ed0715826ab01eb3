from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from filters.errors import InputError
from trainer.checkpoints import EMA, STATE_NAME, Checkpoints, copied, mean_weights
from trainer.model import WEIGHTS_NAME, ClipModel, new_model, read_config, write_config


@pytest.fixture
def model(architecture: Path) -> ClipModel:
    return new_model(architecture, seed=0)


def checkpoints(folder: Path, architecture: Path, name: str = "abc", keep_every: int | None = None) -> Checkpoints:
    config = read_config(architecture)
    return Checkpoints(folder, lambda out: write_config(config, out), name, every=10, keep_every=keep_every)


def test_a_checkpoint_is_a_model_folder_and_a_state(tmp_path: Path, architecture: Path, model: ClipModel) -> None:
    kept = checkpoints(tmp_path / "c", architecture)
    averaged = {key: value * 0 for key, value in model.state_dict().items()}
    kept.save(10, model.state_dict(), averaged, {"done": 3, "moments": {0: [torch.ones(2)]}})
    kept.close()
    [folder] = kept.all()
    assert folder.name == f"{10:015d}"
    loaded = open_clip.create_model(f"local-dir:{folder}")
    assert torch.equal(loaded.logit_scale, model.logit_scale)
    assert open_clip.create_model(f"local-dir:{folder / EMA}").logit_scale == 0
    found = checkpoints(tmp_path / "c", architecture).latest()
    assert found is not None
    weights, state = found
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert state["done"] == 3
    assert torch.equal(state["moments"][0][0], torch.ones(2))


def test_what_changes_after_save_is_not_in_it(tmp_path: Path, architecture: Path, model: ClipModel) -> None:
    kept = checkpoints(tmp_path, architecture)
    before = float(model.logit_scale.detach())
    counter = torch.zeros(1)
    kept.save(10, model.state_dict(), None, {"counter": counter})
    with torch.no_grad():
        model.logit_scale.add_(1)
        counter.add_(1)
    kept.close()
    found = kept.latest()
    assert found is not None
    assert float(found[0]["logit_scale"]) == before
    assert float(found[1]["counter"]) == 0


def test_the_latest_stays_and_every_third(tmp_path: Path, architecture: Path, model: ClipModel) -> None:
    kept = checkpoints(tmp_path / "c", architecture, keep_every=3)
    for samples in range(10, 90, 10):
        kept.save(samples, model.state_dict(), None, {})
    kept.close()
    assert [int(path.name) for path in kept.all()] == [30, 60, 80]
    kept.tidy()
    assert [int(path.name) for path in kept.all()] == [30, 60]
    other = checkpoints(tmp_path / "d", architecture)
    other.save(10, model.state_dict(), None, {})
    other.close()
    other.tidy()
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("damage", ["cut state", "cut weights", "no weights", "empty"])
def test_a_broken_checkpoint_is_passed_over(
    damage: str, tmp_path: Path, architecture: Path, model: ClipModel
) -> None:
    kept = checkpoints(tmp_path, architecture, keep_every=1)
    for samples in (10, 20):
        kept.save(samples, model.state_dict(), None, {"done": samples})
    kept.close()
    newest = kept.all()[-1]
    if damage == "empty":
        shutil.rmtree(newest)
        newest.mkdir()
    elif damage == "no weights":
        (newest / WEIGHTS_NAME).unlink()
    else:
        path = newest / (STATE_NAME if damage == "cut state" else WEIGHTS_NAME)
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"{newest.name} cannot be read and is passed over"):
        found = kept.latest()
    assert found is not None
    assert found[1]["done"] == 10


def test_another_run_s_checkpoints_and_half_written_ones_are_discarded(
    tmp_path: Path, architecture: Path, model: ClipModel
) -> None:
    first = checkpoints(tmp_path, architecture, "first")
    first.save(10, model.state_dict(), None, {})
    first.close()
    (tmp_path / ".writing-000000000000020").mkdir()
    second = checkpoints(tmp_path, architecture, "second")
    assert second.latest() is None
    second.discard_others()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_raised_at_the_next_call(tmp_path: Path, architecture: Path, model: ClipModel) -> None:
    (tmp_path / "c").write_text("a file where the folder should be")
    kept = checkpoints(tmp_path / "c", architecture)
    kept.save(10, model.state_dict(), None, {})
    with pytest.raises(OSError, match="c"):
        kept.close()


def test_the_mean_of_weights(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 4.0)):
        (tmp_path / name).mkdir()
        weights = {"w": torch.full((2, 2), value), "count": torch.tensor(int(value))}
        save_file(weights, tmp_path / name / WEIGHTS_NAME)
    mean = mean_weights([tmp_path / "a", tmp_path / "b"])
    assert torch.equal(mean["w"], torch.full((2, 2), 2.5))
    assert mean["w"].dtype == torch.float32
    assert mean["count"] == 4
    save_file({"w": torch.ones(3)}, tmp_path / "b" / WEIGHTS_NAME)
    with pytest.raises(InputError, match="another architecture"):
        mean_weights([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="no readable"):
        mean_weights([tmp_path / "nowhere"])
    assert load_file(tmp_path / "a" / WEIGHTS_NAME)["w"][0, 0] == 1


def test_copies_are_deep() -> None:
    original = {"a": [torch.zeros(1), {"b": torch.zeros(1)}], "c": 1, "d": (torch.zeros(1),)}
    copy = copied(original)
    original["a"][0].add_(1)  # type: ignore[index]
    original["a"][1]["b"].add_(1)  # type: ignore[index]
    assert float(copy["a"][0]) == float(copy["a"][1]["b"]) == 0
    assert isinstance(copy["d"], tuple)
