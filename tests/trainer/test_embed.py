"""Embeddings: equal to open_clip's own, whatever the batch, the order, the threads and the length of the texts."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from filters.errors import InputError, ModelError
from tests.trainer.conftest import TinyMix
from trainer import embed
from trainer.embed import UnusableItem, embed_images, embed_pairs, embed_texts
from trainer.images import decode_rgb, split_preprocess
from trainer.model import ClipModel, LoadedModel, can_truncate, compile_layers
from trainer.packed import PackedAttention, pack_layers
from trainer.texts import encode_cut, length_chunks, text_lengths

CONTEXT, DIM = 20, 16
VISION = {"layers": 1, "width": 32, "image_size": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2, "vocab_size": 49408}
PREPROCESS = image_transform_v2(PreprocessCfg(size=32), is_train=False)
TOKENIZER = open_clip.get_tokenizer("ViT-B-32", context_length=CONTEXT)
EOT = 49407
CAPTIONS = [
    "a red square",
    "",
    "one",
    "a caption of very many words, so many that it is longer than the model reads and must be cut at its end",
    "an <end_of_text> in the middle of a caption",
    "a red square",
    "two blue circles beside a green triangle, all of them on white",
    "zebra 🦓 in snow",
]


def tiny(kind: Callable[..., ClipModel] = CLIP, precision: str = "fp32", **text: Any) -> LoadedModel:
    """A model of one kind with random weights from seed 0, ready for inference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(embed_dim=DIM, vision_cfg=VISION, text_cfg={**TEXT, **text}).eval()
        for tower in (model, getattr(model, "text", model)):
            if hasattr(tower, "positional_embedding"):
                # As small as open_clip starts them, the tokens' places would hardly matter.
                torch.nn.init.normal_(tower.positional_embedding, std=1.0)
    return LoadedModel("tiny", model, PREPROCESS, TOKENIZER, "0" * 12, CONTEXT, DIM, precision, "cpu")


def coca(**config: Any) -> ClipModel:
    vision = {**config["vision_cfg"], "output_tokens": True, "attentional_pool": True}
    text = {**config["text_cfg"], "embed_cls": True, "output_tokens": True, "context_length": CONTEXT - 1}
    decoder = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 1}
    return CoCa(embed_dim=DIM, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision)


class OtherTower(torch.nn.Module):
    """A text tower that is not open_clip's own, as those of Hugging Face are: the mean of all tokens but padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(49408, DIM)
        self.attn_mask, self.pool_type = torch.full((CONTEXT, CONTEXT), -torch.inf).triu_(1), "argmax"

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = self.embedding(tokens).sum(dim=1)
        return summed


def hugging_face(**config: Any) -> ClipModel:
    model = CustomTextCLIP(**config)
    model.text = OtherTower()
    return model


Kinds = dict[str, Callable[[], LoadedModel]]
CAUSAL: Kinds = {
    "argmax": lambda: tiny(),
    "eos": lambda: tiny(pool_type="eos", eos_id=EOT),
    "eos that no text has": lambda: tiny(pool_type="eos", eos_id=3),
    "custom text": lambda: tiny(CustomTextCLIP),
    "custom text, eos": lambda: tiny(CustomTextCLIP, pool_type="eos", eos_id=EOT),
    "linear projection": lambda: tiny(CustomTextCLIP, proj_bias=True),
    "no projection": lambda: tiny(CustomTextCLIP, proj_type="none", width=DIM, heads=1),
    "other blocks": lambda: tiny(CustomTextCLIP, block_type="custom", scale_attn=True, scale_fc=True),
}
FULL: Kinds = {
    "sees all": lambda: tiny(no_causal_mask=True),
    "custom text, sees all": lambda: tiny(CustomTextCLIP, no_causal_mask=True),
    "takes the last": lambda: tiny(CustomTextCLIP, pool_type="last"),
    "sees all, takes the first": lambda: tiny(CustomTextCLIP, no_causal_mask=True, pool_type="first"),
    "CoCa": lambda: replace(tiny(coca), tokenizer=open_clip.get_tokenizer("ViT-B-32", context_length=CONTEXT - 1)),
    "another library's": lambda: tiny(hugging_face),
}


def plain_texts(loaded: LoadedModel, captions: list[str]) -> np.ndarray[Any, Any]:
    """Embeddings as open_clip's users compute them: one text a pass, at full length."""
    with torch.inference_mode():
        features = [loaded.model.encode_text(loaded.tokenizer([caption])) for caption in captions]
    return torch.nn.functional.normalize(torch.cat(features), dim=-1).numpy()


@pytest.mark.parametrize("kind", [*CAUSAL, *FULL])
def test_texts_are_embedded_as_at_full_length(kind: str) -> None:
    loaded = {**CAUSAL, **FULL}[kind]()
    assert can_truncate(loaded.model) == (kind in CAUSAL)
    np.testing.assert_allclose(embed_texts(loaded, CAPTIONS), plain_texts(loaded, CAPTIONS), atol=1e-5)


@pytest.mark.parametrize("kind", FULL)
def test_where_texts_may_not_be_cut_features_would_differ(kind: str) -> None:
    loaded = FULL[kind]()
    tokens = loaded.tokenizer(CAPTIONS[:1])
    end = int(tokens.argmax()) + 1
    padded = torch.zeros_like(tokens)
    padded[:, :end] = tokens[:, :end]
    padded[:, end:] = 5
    with torch.inference_mode():
        whole, other = loaded.model.encode_text(tokens), loaded.model.encode_text(padded)
    # What stands after the end of the text matters (for CLIP's own towers it does not, as above).
    assert (whole - other).abs().max() > 1e-3
    assert (text_lengths(loaded.model, tokens) == tokens.shape[1]).all()


def test_a_tower_whose_mask_shows_later_tokens_is_not_cut() -> None:
    loaded = tiny()
    loaded.model.attn_mask[2, 3] = 0
    assert not can_truncate(loaded.model)


@pytest.mark.parametrize("kind", CAUSAL)
def test_texts_end_at_the_token_that_is_taken(kind: str) -> None:
    loaded = CAUSAL[kind]()
    tokens = loaded.tokenizer(CAPTIONS)
    lengths = text_lengths(loaded.model, tokens)
    ends = [row.index(EOT) + 1 for row in tokens.tolist()]
    assert lengths.tolist() == ([1] * len(CAPTIONS) if kind == "eos that no text has" else ends)
    longest = int(lengths.max())
    with torch.inference_mode():
        cut, whole = encode_cut(loaded.model, tokens, longest), loaded.model.encode_text(tokens)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 77), max_size=60), st.integers(1, 400))
def test_chunks_hold_each_text_once_and_few_tokens(lengths: list[int], most: int) -> None:
    chunks = list(length_chunks(np.array(lengths, np.int64), most))
    assert sorted(i for chunk in chunks for i in chunk.tolist()) == list(range(len(lengths)))
    ordered = [lengths[i] for chunk in chunks for i in chunk.tolist()]
    assert ordered == sorted(lengths)
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * max(lengths[i] for i in chunk) <= most


@pytest.mark.parametrize("batch", [1, 3, 256])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_embedding_depends_on_no_batch_order_or_threads(mix: TinyMix, batch: int, threads: int) -> None:
    # Matrix products of another shape round differently: 1e-5 in float32.
    loaded = tiny()
    expected = embed_images(loaded, mix.images), plain_texts(loaded, mix.captions)
    order = np.random.default_rng(batch).permutation(len(mix.images))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images, texts = embed_pairs(
            loaded, [mix.images[i] for i in order], [mix.captions[i] for i in order], batch=batch
        )
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(images, expected[0][order], atol=1e-5)
    np.testing.assert_allclose(texts, expected[1][order], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 20, 256])
def test_the_way_through_a_gpu_gives_the_same(mix: TinyMix, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    # The same steps in the same threads, on the only device that every machine has.
    loaded = tiny()
    expected = embed_images(loaded, mix.images), embed_texts(loaded, CAPTIONS)
    monkeypatch.setattr(embed, "_on_gpu", lambda loaded: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    found = embed_pairs(loaded, mix.images, CAPTIONS, batch)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(UnusableItem, match=r"picture 41: "):
        embed_images(loaded, [*mix.images[:41], b"no picture"], batch)


def test_in_half_precision_a_batch_changes_little(mix: TinyMix) -> None:
    # bfloat16 has eight bits of mantissa: 5e-3 for numbers of unit vectors.
    loaded = tiny(precision="bf16")
    open_clip.model.convert_weights_to_lp(loaded.model, torch.bfloat16)
    together = embed_pairs(loaded, mix.images, mix.captions)
    alone = embed_pairs(loaded, mix.images, mix.captions, batch=1)
    for a, b in zip(together, alone, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=5e-3)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_gpus_products_of_float32_are_without_tf32(
    mix: TinyMix, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setattr(embed, "_on_gpu", lambda loaded: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    seen: list[tuple[bool, bool]] = []

    def settings() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    loaded = tiny()
    for module in (loaded.model.visual, loaded.model.transformer):
        module.register_forward_pre_hook(lambda *_: seen.append(settings()))
    before = settings()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        embed_images(loaded, mix.images[:3])
        embed_texts(loaded, CAPTIONS)
        embed_pairs(loaded, mix.images, CAPTIONS, 16)
        with pytest.raises(UnusableItem):
            embed_images(loaded, [b"no picture"])
        assert settings() == (allowed, allowed)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert len(seen) > 3 and set(seen) == {(False, False)}


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(256, 170), (40, 256), (20, 30), (32, 32)])
def test_preprocessing_is_open_clips_own_bit_by_bit(mode: str, interpolation: str, size: tuple[int, int]) -> None:
    config = PreprocessCfg(size=32, resize_mode=mode, interpolation=interpolation, fill_color=255)
    transform = image_transform_v2(config, is_train=False)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = [encoded(noise, kind) for kind in ("JPEG", "PNG", "WEBP")]
    split = split_preprocess(transform)
    found = split.normalised(torch.stack([split.pixels(one) for one in data]), torch.float32)
    assert torch.equal(found, torch.stack([transform(decode_rgb(one)) for one in data]))


def encoded(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def test_a_preprocessing_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="does not end in ToTensor and Normalize"):
        split_preprocess(lambda image: image)


def test_a_damaged_picture_is_named_and_what_waits_is_not_done(mix: TinyMix) -> None:
    loaded = tiny()
    images = [*mix.images[:20], mix.images[20][:60], *mix.images[21:]] * 20
    seen = []
    shape = loaded.preprocess.transforms[0]  # type: ignore[attr-defined]

    def counted(image: Image.Image) -> Image.Image:
        seen.append(image)
        shaped: Image.Image = shape(image)
        return shaped

    steps = open_clip.transform.Compose([counted, *PREPROCESS.transforms[1:]])
    with pytest.raises(UnusableItem, match=r"picture 20: .* not a whole picture") as caught:
        embed_images(replace(loaded, preprocess=steps), images)
    assert caught.value.position == 20
    assert isinstance(caught.value, InputError)
    assert len(seen) < len(images) / 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_named(mix: TinyMix, value: float) -> None:
    loaded = tiny()
    word = int(TOKENIZER(["zebra"])[0, 1])
    with torch.no_grad():
        loaded.model.token_embedding.weight[word] = value
    with pytest.raises(UnusableItem, match=r"text 7: its embedding is not finite \(1 of 8\); try precision fp32"):
        embed_texts(loaded, CAPTIONS)
    with torch.no_grad():
        loaded.model.visual.ln_post.weight[0] = value
    with pytest.raises(UnusableItem, match="picture 0: its embedding is not finite"):
        embed_images(loaded, mix.images)


@pytest.mark.parametrize("batch", [1, 256])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_faults_take_what_cannot_be_embedded_and_nothing_beside_it(
    mix: TinyMix, monkeypatch: pytest.MonkeyPatch, batch: int, on_gpu: bool
) -> None:
    loaded = tiny()
    expected = embed_images(loaded, mix.images)
    monkeypatch.setattr(embed, "_on_gpu", lambda loaded: on_gpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    with torch.no_grad():
        loaded.model.token_embedding.weight[int(TOKENIZER(["zebra"])[0, 1])] = float("nan")
    broken = {0, 17, 18, len(mix.images) - 1}
    of_images: dict[int, str] = {}
    of_texts: dict[int, str] = {}
    images = [b"none" if n in broken else data for n, data in enumerate(mix.images)]
    found, texts = embed_pairs(loaded, images, CAPTIONS, batch, (of_images, of_texts))
    assert set(of_images) == broken and "not a whole picture" in of_images[17]
    assert list(of_texts) == [7] and "not finite" in of_texts[7]
    rows = [n for n in range(len(images)) if n not in broken]
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == sorted(broken)
    np.testing.assert_allclose(found[rows], expected[rows], atol=1e-5)
    assert np.flatnonzero(np.isnan(texts).all(axis=1)).tolist() == [7]


def test_the_threads_are_as_before_after_a_failure(mix: TinyMix) -> None:
    before = torch.get_num_threads()
    with pytest.raises(UnusableItem):
        embed_images(tiny(), [*mix.images[:20], b"no picture"])
    with pytest.raises(ModelError):
        embed_texts(replace(tiny(), embed_dim=32), CAPTIONS)
    assert torch.get_num_threads() == before


def test_a_model_of_another_width_than_it_says_is_refused(mix: TinyMix) -> None:
    other = replace(tiny(), embed_dim=32)
    with pytest.raises(ModelError, match="tiny gives 16 numbers; its config says 32"):
        embed_images(other, mix.images)
    with pytest.raises(ModelError, match="tiny gives 16 numbers; its config says 32"):
        embed_texts(other, mix.captions)


def test_no_pictures_and_no_texts_are_fine() -> None:
    assert [a.shape for a in embed_pairs(tiny(), [], [])] == [(0, DIM), (0, DIM)]


@pytest.mark.parametrize("kind", [*CAUSAL, *FULL])
def test_packed_layers_give_the_same(mix: TinyMix, kind: str) -> None:
    loaded = {**CAUSAL, **FULL}[kind]()
    images, texts = embed_images(loaded, mix.images), plain_texts(loaded, CAPTIONS)
    pack_layers(loaded.model)
    assert any(isinstance(module, PackedAttention) for module in loaded.model.modules())
    # Another order of sums: 1e-5 in float32.
    found = embed_pairs(loaded, mix.images, CAPTIONS)
    np.testing.assert_allclose(found[0], images, atol=1e-5)
    np.testing.assert_allclose(found[1], texts, atol=1e-5)


VISIONS: dict[str, dict[str, Any]] = {
    "layer scale": {"ls_init_value": 0.5},
    "attentional pool": {"attentional_pool": True, "attn_pooler_heads": 2},
    "average pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "no norm before": {"no_ln_pre": True, "mlp_ratio": 3.0},
}


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("kind", VISIONS)
def test_packed_layers_give_the_same_for_other_towers(mix: TinyMix, kind: str, quick_gelu: bool) -> None:
    def made(**config: Any) -> ClipModel:
        vision = {**config["vision_cfg"], "layers": 2, **VISIONS[kind]}
        return CustomTextCLIP(**{**config, "vision_cfg": vision}, quick_gelu=quick_gelu)

    loaded = tiny(made, ls_init_value=0.5)
    expected = embed_pairs(loaded, mix.images, CAPTIONS)
    pack_layers(loaded.model)
    assert sum(isinstance(module, PackedAttention) for module in loaded.model.modules()) == 4
    for a, b in zip(embed_pairs(loaded, mix.images, CAPTIONS), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_layers_in_half_precision_and_of_other_kinds_are_not_packed() -> None:
    half = tiny(CustomTextCLIP)
    open_clip.model.convert_weights_to_lp(half.model, torch.bfloat16)
    other = tiny(CustomTextCLIP, block_type="custom", scale_attn=True)
    for model in (half.model, other.model.text):
        pack_layers(model)
        assert not any(isinstance(module, PackedAttention) for module in model.modules())


@pytest.mark.slow
def test_compiled_layers_give_the_same(mix: TinyMix) -> None:
    loaded = tiny()
    expected = embed_pairs(loaded, mix.images, CAPTIONS)
    compile_layers(loaded.model)
    found = embed_pairs(loaded, mix.images, CAPTIONS)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
