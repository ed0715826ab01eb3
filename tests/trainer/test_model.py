from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from filters.errors import InputError, ModelError
from tests.trainer.conftest import TinyMix
from trainer.embed import embed_images, embed_texts
from trainer.images import decode_rgb
from trainer.model import LoadedModel, load_model, new_model, read_config, save_model


@pytest.fixture(scope="module")
def folder(architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(new_model(architecture, seed=0), read_config(architecture), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder))


def test_saved_folder_is_what_plain_open_clip_loads(folder: Path, loaded: LoadedModel, mix: TinyMix) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.inference_mode():
        image = model.encode_image(preprocess(decode_rgb(mix.images[0]))[None], normalize=True).numpy()
        text = model.encode_text(tokenizer(mix.captions[:1]), normalize=True).numpy()
    np.testing.assert_allclose(embed_images(loaded, mix.images[:1]), image, atol=1e-6)
    np.testing.assert_allclose(embed_texts(loaded, mix.captions[:1]), text, atol=1e-6)
    assert (loaded.context_length, loaded.embed_dim) == (12, 32)


def test_local_dir_and_folder_are_the_same_model(folder: Path, loaded: LoadedModel) -> None:
    assert load_model(f"local-dir:{folder}").fingerprint == loaded.fingerprint


def test_fingerprint_follows_weights_preprocessing_and_precision(
    folder: Path, loaded: LoadedModel, architecture: Path, tmp_path: Path
) -> None:
    config = read_config(architecture)
    save_model(new_model(architecture, seed=1), config, tmp_path / "weights")
    config["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    save_model(loaded.model, config, tmp_path / "preprocess")
    prints = {
        load_model(str(tmp_path / "weights")).fingerprint,
        load_model(str(tmp_path / "preprocess")).fingerprint,
        load_model(str(folder), precision="bf16").fingerprint,
        loaded.fingerprint,
    }
    assert len(prints) == 4
    assert all(len(p) == 12 for p in prints)


@pytest.mark.parametrize(
    ("name", "pretrained", "expected"),
    [
        ("ViT-B-32", "openai", True),
        ("ViT-B/32", "openai", True),
        ("ViT-B-32-quickgelu", "openai", True),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32", "weights.pt", False),
        ("local-dir:models/ViT-B-32", None, False),
    ],
)
def test_weights_decide_about_quick_gelu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pretrained: str | None, expected: bool
) -> None:
    """Else OpenAI's weights would give other cosines under `ViT-B-32`, with no more than open_clip's warning."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "models" / "ViT-B-32").mkdir(parents=True)
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / "models" / "ViT-B-32" / file).write_text("{}")
    asked: list[bool] = []

    def create(*_args: object, force_quick_gelu: bool, **_others: object) -> None:
        asked.append(force_quick_gelu)
        raise OSError("no weights here")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(ModelError, match="no weights here"):
        load_model(name, pretrained)
    assert asked == [expected]


def test_one_models_two_names_have_one_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = open_clip.CLIP(
            4,
            {"layers": 1, "width": 8, "head_width": 8, "image_size": 8, "patch_size": 8},
            {"width": 8, "heads": 1, "layers": 1},
        )
    monkeypatch.setattr(open_clip, "create_model_and_transforms", lambda *_args, **_others: (small, None, None))
    found = {name: load_model(name, "openai").fingerprint for name in ("ViT-B-32", "ViT-B-32-quickgelu")}
    assert len(set(found.values())) == 1
    assert load_model("ViT-B-32", "laion2b_s34b_b79k").fingerprint not in found.values()


def test_half_precision_storage_keeps_vectors_exact(architecture: Path, tmp_path: Path) -> None:
    model = new_model(architecture, seed=0)
    model.visual.bn1.running_var.fill_(1e6)  # beyond half precision
    save_model(model, read_config(architecture), tmp_path, dtype=torch.float16)
    assert load_model(str(tmp_path)).model.visual.bn1.running_var[0] == 1e6


@pytest.mark.parametrize("batch", [1, 7])
def test_an_embedding_does_not_depend_on_its_batch(loaded: LoadedModel, mix: TinyMix, batch: int) -> None:
    # matrix products of another shape round differently: 1e-5 in float32
    together = embed_images(loaded, mix.images), embed_texts(loaded, mix.captions)
    np.testing.assert_allclose(embed_images(loaded, mix.images, batch=batch), together[0], atol=1e-5)
    np.testing.assert_allclose(embed_texts(loaded, mix.captions, batch=batch), together[1], atol=1e-5)
    backwards = embed_images(loaded, mix.images[::-1])[::-1]
    np.testing.assert_allclose(backwards, together[0], atol=1e-5)


def test_embeddings_are_unit_length_and_may_be_none(loaded: LoadedModel, mix: TinyMix) -> None:
    images = embed_images(loaded, mix.images)
    assert images.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert embed_images(loaded, []).shape == embed_texts(loaded, []).shape == (0, 32)


def test_transparency_lies_on_white() -> None:
    for mode, colour in (("RGBA", (200, 0, 0, 0)), ("LA", (0, 0))):
        out = io.BytesIO()
        Image.new(mode, (4, 4), colour).save(out, "PNG")
        assert decode_rgb(out.getvalue()).getpixel((1, 1)) == (255, 255, 255)


def test_a_broken_picture_is_named_by_its_place(loaded: LoadedModel, mix: TinyMix) -> None:
    with pytest.raises(InputError, match="picture 2: "):
        embed_images(loaded, [mix.images[0], mix.images[1], mix.images[2][:50]])


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("ViT-B-33", None, "closest: ViT-B-32"),
        ("ViT-B-32", None, "needs `pretrained`"),
        ("ViT-B-32", "nowhere", "no pretrained weights 'nowhere'.*laion2b_s34b_b79k"),
        ("./no/such/folder", None, "no open_clip_config.json"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name, pretrained)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_weights_are_said_in_one_line(architecture: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no weights"):
        load_model(str(architecture))
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_new_model_depends_on_its_seed_alone(architecture: Path) -> None:
    before = torch.get_rng_state()
    first, second, other = (new_model(architecture, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["token_embedding.weight"], other["token_embedding.weight"])
