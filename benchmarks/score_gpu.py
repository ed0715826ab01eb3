"""What a GPU does of its matrix rate when it scores pairs, and how many pairs a second from JPEG bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.model import get_input_dtype
from torchvision.io import ImageReadMode, decode_jpeg

from trainer.embed import embed_pairs, embed_texts
from trainer.images import Preprocess, split_preprocess
from trainer.model import LoadedModel
from trainer.texts import encode_cut, length_chunks, text_lengths

REPEATS = 10
Scores = npt.NDArray[np.float32]


def seconds(function: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Median seconds of a call after two to warm up, the GPU's work included."""
    found = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        if number >= 2:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def matrix_rate(device: str, side: int = 8192) -> float:
    """FLOP/s of a bf16 product of two random square matrices."""
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)


def transformer_flops(width: int, layers: int, texts: int, length: int) -> int:
    """FLOPs of the matrix products of a transformer with an MLP of four times its width over `texts` x `length`."""
    return texts * length * layers * (24 * width**2 + 4 * length * width)


def image_work(loaded: LoadedModel, batch: int) -> tuple[Callable[[], object], int]:
    """A forward pass over pictures that are on the device, and its FLOPs."""
    visual = loaded.model.visual
    size, patch = visual.image_size, visual.patch_size
    pixels = torch.randn(batch, 3, *size, device=loaded.device).to(get_input_dtype(loaded.precision))
    patches = (size[0] // patch[0]) * (size[1] // patch[1])
    width = visual.transformer.width
    ends = 2 * batch * width * (patches * 3 * patch[0] * patch[1] + loaded.embed_dim)
    flops = ends + transformer_flops(width, visual.transformer.layers, batch, patches + 1)
    return lambda: loaded.model.encode_image(pixels), flops


def text_work(loaded: LoadedModel, captions: Sequence[str], batch: int) -> tuple[Callable[[], object], int]:
    """Forward passes over captions with their tokens on the device, cut as `embed_texts` does, and their FLOPs."""
    tokens = loaded.tokenizer(list(captions))
    lengths = text_lengths(loaded.model, tokens)
    chunks = [
        (tokens[chunk].to(loaded.device), int(lengths[chunk[-1]]))
        for chunk in length_chunks(lengths, batch * tokens.shape[1])
    ]
    tower = loaded.model.transformer
    flops = sum(transformer_flops(tower.width, tower.layers, len(part), length) for part, length in chunks)
    flops += 2 * len(captions) * tower.width * loaded.embed_dim
    return lambda: [encode_cut(loaded.model, part, length) for part, length in chunks], flops


def model_rates(loaded: LoadedModel, captions: Sequence[str], batch: int) -> dict[str, float]:
    """FLOP/s of the image tower, the text tower and both, inputs on the device; one picture a caption."""
    with torch.inference_mode():
        towers = {"image": image_work(loaded, batch), "text": text_work(loaded, captions, batch)}
        took = {name: seconds(work, loaded.device) for name, (work, _) in towers.items()}
    passes = {"image": len(captions) / batch, "text": 1.0}
    flops = {name: towers[name][1] * passes[name] for name in towers}
    rates = {name: towers[name][1] / took[name] for name in towers}
    return {**rates, "both": sum(flops.values()) / sum(took[name] * passes[name] for name in towers)}


def decode_on_cpu(preprocess: Preprocess, images: Sequence[bytes]) -> None:
    """What `embed_images` does before the model, alone."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(preprocess.pixels, images):
            pass


def decode_on_gpu(preprocess: Preprocess, images: Sequence[bytes], device: str) -> torch.Tensor:
    """uint8 [N, H, W, 3] by torchvision's JPEG decoder and resize on the device; RuntimeError where it has none."""
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    shape: Any = preprocess.shape  # torchvision's steps take tensors as well
    return torch.stack([shape(one).permute(1, 2, 0) for one in decoded])


def scores_from_gpu_decoder(
    loaded: LoadedModel, images: Sequence[bytes], captions: Sequence[str], batch: int
) -> Scores:
    """Scores of pairs whose pictures are decoded on the device; both towers are run."""
    preprocess, parts = split_preprocess(loaded.preprocess), []
    texts = torch.from_numpy(embed_texts(loaded, captions, batch)).to(loaded.device)
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            pixels = decode_on_gpu(preprocess, images[start : start + batch], loaded.device)
            inputs = preprocess.normalised(pixels, get_input_dtype(loaded.precision))
            parts.append(torch.nn.functional.normalize(loaded.model.encode_image(inputs).float(), dim=-1))
    return np.asarray((torch.cat(parts) * texts).sum(dim=-1).cpu().numpy(), np.float32)


def offers_gpu_decoding(preprocess: Preprocess, image: bytes, device: str) -> bool:
    """Whether torchvision decodes a JPEG on the device: it may have been built without nvJPEG."""
    try:
        decode_on_gpu(preprocess, [image], device)
    except RuntimeError:
        return False
    return True


def end_to_end(loaded: LoadedModel, images: Sequence[bytes], captions: Sequence[str], batch: int) -> dict[str, float]:
    """Pairs a second from JPEG bytes, decoded by CPU threads (as `headwater score` does) and on the GPU.

    The decoder's share is what it takes alone of the whole time (near 1 where it is the limit).
    """
    preprocess, count, device = split_preprocess(loaded.preprocess), len(images), loaded.device
    embedded: list[npt.NDArray[np.float32]] = []

    def whole() -> None:
        embedded[:] = embed_pairs(loaded, images, captions, batch)

    took = seconds(whole, device, 3)
    alone = seconds(lambda: decode_on_cpu(preprocess, images), device, 3)
    found = {"pairs_per_second": count / took, "decoder_share": alone / took}
    if not offers_gpu_decoding(preprocess, images[0], device):
        print("JPEG decoding on the GPU: not offered by this torchvision")
        return found
    expected = np.einsum("nd,nd->n", *embedded)
    difference = np.abs(scores_from_gpu_decoder(loaded, images, captions, batch) - expected).max()
    took = seconds(lambda: scores_from_gpu_decoder(loaded, images, captions, batch), device, 3)
    parts = [images[start : start + batch] for start in range(0, count, batch)]
    alone = seconds(lambda: [decode_on_gpu(preprocess, part, device) for part in parts], device, 3)
    return {
        **found,
        "gpu_decoder_pairs_per_second": count / took,
        "gpu_decoder_share": alone / took,
        "gpu_decoder_largest_difference": float(difference),
    }
