"""TPT, test-time prompt tuning (Shu et al., 2022), for many pictures at once and exact.

Of one picture many views are classified zero-shot; the most confident are kept, and the context of the prompts ("a
photo of a") is changed by a step of AdamW so that their mean prediction has less entropy. The view that the model's
own preprocessing gives is then classified with the changed context. Each picture starts anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.prompted import Indices, Prompted, prompted
from evaluation.tpt_views import views as views
from evaluation.twin import frozen_twin, image_features, unit
from filters.errors import InputError, ModelError
from trainer.embed import without_tf32
from trainer.model import ClipModel, text_tower
from trainer.texts import length_chunks

# What the activations of one pass may take where the caller names no chunk.
_BYTES = 2 << 30
# Numbers in one layer, a token and unit of width: norms, keys, the wide middle twice. A backward pass needs those
# of all layers, any other pass of one.
_NUMBERS = 18


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found for B pictures of V views, K classes, k kept views and a context of n tokens of width D.

    Logits are cosines times the model's scale, in float32 or the model's float64; a `logit_bias`, which is the same
    for all classes, is left out. `selected` is int64, the most confident view first. `losses` and `gradients` are
    those before each step.
    """

    logits: torch.Tensor  # [B, K], of view 0 with the tuned context
    zero_shot_logits: torch.Tensor  # [B, V, K]
    selected: torch.Tensor  # [B, k]
    context: torch.Tensor  # [B, n, D]
    losses: torch.Tensor  # [B, steps], in nats
    gradients: torch.Tensor  # [B, steps, n, D]


def tune(
    model: ClipModel,
    views: torch.Tensor,
    class_tokens: torch.Tensor,
    *,
    context_length_tokens: int | range = 4,
    keep: float = 0.1,
    steps: int = 1,
    lr: float = 5e-3,
    weight_decay: float = 0.01,
    chunk: int | None = None,
) -> Tuned:
    """Tune the context of a model's prompts for each of B pictures by itself, and classify these.

    `views` [B, V, 3, H, W] are preprocessed, view 0 is the one to classify (see `views`); `class_tokens` int64 [K, L]
    are "a photo of a {class}." with `context_length_tokens` tokens of context after the start-of-text token, or
    at the positions of a range (see `evaluation.prompts`). `keep` is the part of the views whose entropy counts,
    `chunk` the most classes in one pass of the text tower (None: as many as 2 GiB of activations allow); the result
    does not depend on it. The model is not touched.

    Raises ModelError for a text tower into which no context can be put, and InputError for views or tokens that are
    not the model's, one class, `keep` times V below 1, and features that are not finite.
    """
    tuner = Tuner(model, class_tokens, context_length_tokens=context_length_tokens, chunk=chunk)
    return tuner.tune(tuner.features(views), keep=keep, steps=steps, lr=lr, weight_decay=weight_decay)


class Tuner:
    """A model with the prompts of one set of classes, whose zero-shot text features are computed once.

    It holds the model's weights as they are; make another one when they have changed. Arguments and errors are those
    of `tune`.
    """

    def __init__(
        self,
        model: ClipModel,
        class_tokens: torch.Tensor,
        *,
        context_length_tokens: int | range = 4,
        chunk: int | None = None,
    ) -> None:
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk is {chunk}; a pass needs at least one class")
        positions = context_length_tokens
        if isinstance(positions, int):
            positions = range(1, 1 + positions)
        with torch.inference_mode(False), torch.no_grad(), without_tf32():
            self._twin = frozen_twin(model)
            self._scale = self._twin.logit_scale.to(_wide(self._twin.logit_scale)).exp()
            tokens = class_tokens.clone().to(self._scale.device)
            self._prompts: Prompted = prompted(self._twin, tokens, positions)
            self._chunk, self._most, self._most_kept = chunk, *_most_tokens(self._twin)
            # Where every picture starts, [n, D], and the zero-shot text features there, [K, E].
            self.context = self._prompts.context.to(_wide(self._prompts.context))
            self.texts = self._texts(self.context.unsqueeze(0))[0]
        bad = ~self.texts.isfinite().all(dim=1)
        if bad.any():
            first = int(bad.int().argmax())
            raise ModelError(f"the text features of class {first} are not finite; check the weights")

    def features(self, views: torch.Tensor) -> torch.Tensor:
        """Unit features [B, V, E] of views [B, V, 3, H, W], each computed once; InputError for other shapes."""
        size = getattr(self._twin.visual, "image_size", None)
        size = (size, size) if isinstance(size, int) else size
        if views.dim() != 5 or views.shape[2] != 3 or (size is not None and tuple(views.shape[3:]) != tuple(size)):
            asked = " x ".join(map(str, size)) if size is not None else "H x W"
            raise InputError(f"views are {list(views.shape)}; expected [pictures, views, 3, {asked}] of this model")
        if not views.shape[0] or not views.shape[1]:
            raise InputError(f"views are {list(views.shape)}: there is nothing to tune for")
        with torch.inference_mode(False), without_tf32():
            return image_features(self._twin, views.flatten(0, 1)).view(*views.shape[:2], -1)

    def tune(
        self,
        features: torch.Tensor,
        *,
        keep: float = 0.1,
        steps: int = 1,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
    ) -> Tuned:
        """`evaluation.tpt.tune` for the unit features [B, V, E] of views, which may have been kept from before."""
        _check_recipe(steps, lr, weight_decay)
        count = _kept(features, self.texts, keep)
        with torch.inference_mode(False), torch.enable_grad(), without_tf32():
            features = unit(features.clone().to(self.texts))
            zero_shot = self._scale * features @ self.texts.T
            selected = entropy(zero_shot).argsort(dim=-1, stable=True)[:, :count]
            kept = features.take_along_dim(selected.unsqueeze(-1), dim=1)
            contexts, losses, gradients = self._descend(kept, steps, lr, weight_decay)
            logits = self._predict(features[:, 0], zero_shot[:, 0], contexts)
        return Tuned(logits, zero_shot, selected, contexts, losses, gradients)

    def _descend(
        self, kept: torch.Tensor, steps: int, lr: float, weight_decay: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Contexts [B, n, D] after AdamW's steps for views [B, k, E], with losses and gradients before each."""
        contexts = self.context.expand(len(kept), -1, -1).clone().requires_grad_()
        # AdamW works on each number by itself: on all contexts at once it does what one for each would do.
        optimizer = torch.optim.AdamW([contexts], lr=lr, weight_decay=weight_decay)
        losses, gradients = [], []
        for step in range(steps):
            loss, gradient = self._first(kept) if step == 0 else self._next(kept, contexts)
            contexts.grad = gradient
            optimizer.step()
            losses.append(loss)
            gradients.append(gradient.clone())
        if not steps:
            return contexts.detach(), kept.new_zeros(len(kept), 0), kept.new_zeros(len(kept), 0, *self.context.shape)
        return contexts.detach(), torch.stack(losses, dim=1), torch.stack(gradients, dim=1)

    def _first(self, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss [B] and its gradient [B, n, D] where all pictures have the same context.

        The text tower is linearised there once, and what the loss of each picture asks of the text features is
        pulled back through it.
        """
        loss, asked = self._asked(kept, self.texts.expand(len(kept), -1, -1))
        gradient = kept.new_zeros(len(kept), *self.context.shape)
        context = self.context.unsqueeze(0).requires_grad_()
        for classes in self._chunks(1, self._most_kept):
            texts = unit(self._prompts.encode(context, classes))[0]
            some = max(1, self._most // int(self._prompts.costs[classes].sum()))
            for start in range(0, len(kept), some):
                images = slice(start, start + some)
                gradient[images] += self._pulled(texts, context, asked[images, torch.from_numpy(classes)])
        return loss, gradient

    def _pulled(self, texts: torch.Tensor, context: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """What derivatives [b, k, E] with respect to `texts` [k, E] are with respect to `context`: [b, n, D]."""
        if self._prompts.batched:
            (found,) = torch.autograd.grad(texts, context, asked, retain_graph=True, is_grads_batched=True)
            return found[:, 0]
        each = [torch.autograd.grad(texts, context, of_one, retain_graph=True)[0] for of_one in asked]
        return torch.cat(each)

    def _next(self, kept: torch.Tensor, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same where each picture has a context of its own, [B, n, D]."""
        chunks = self._chunks(len(contexts), self._most_kept)
        if len(chunks) == 1:
            texts = unit(self._prompts.encode(contexts, chunks[0]))
            loss, asked = self._asked(kept, texts)
            return loss, torch.autograd.grad(texts, contexts, asked)[0]
        with torch.no_grad():
            texts = self._texts(contexts)
        loss, asked = self._asked(kept, texts)
        gradient = torch.zeros_like(contexts)
        for classes in chunks:
            part = unit(self._prompts.encode(contexts, classes))
            gradient += torch.autograd.grad(part, contexts, asked[:, torch.from_numpy(classes)])[0]
        return loss, gradient

    def _asked(self, kept: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss [B] of views [B, k, E] under text features [B, K, E], and its derivative with respect to these."""
        leaf = texts.detach().requires_grad_()
        loss = mean_entropy(self._scale * kept @ leaf.transpose(1, 2))
        return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]

    @torch.no_grad()
    def _predict(self, features: torch.Tensor, zero_shot: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] of features [B, E]; those of a context that has not moved are the zero-shot ones."""
        moved = (contexts != self.context).flatten(1).any(dim=1)
        logits = zero_shot.clone()
        if moved.any():
            texts = self._texts(contexts[moved])
            logits[moved] = self._scale * (features[moved].unsqueeze(1) @ texts.transpose(1, 2)).squeeze(1)
        return logits

    def _texts(self, contexts: torch.Tensor) -> torch.Tensor:
        """Unit text features [B, K, E] under contexts [B, n, D], a chunk of classes at a time."""
        chunks = self._chunks(len(contexts), self._most)
        parts = [unit(self._prompts.encode(contexts, classes)) for classes in chunks]
        back = torch.from_numpy(np.argsort(np.concatenate(chunks), kind="stable"))
        return torch.cat(parts, dim=1)[:, back]

    def _chunks(self, contexts: int, most: int) -> list[Indices]:
        """The classes of each pass of at most so many tokens under that many contexts, similar lengths together."""
        costs = self._prompts.costs
        if self._chunk is not None:
            order = np.argsort(costs, kind="stable")
            return [order[start : start + self._chunk] for start in range(0, len(order), self._chunk)]
        return list(length_chunks(costs, most // contexts))


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _most_tokens(twin: ClipModel) -> tuple[int, int]:
    """How many tokens may go through the text tower at once, and how many with their activations kept."""
    weight = text_tower(twin).positional_embedding
    most = int(_BYTES // (weight.shape[1] * _NUMBERS * weight.element_size()))
    return most, most // len(text_tower(twin).transformer.resblocks)


def _check_recipe(steps: int, lr: float, weight_decay: float) -> None:
    if steps < 0 or not 0 <= lr < math.inf or not 0 <= weight_decay < math.inf:
        raise InputError(f"steps {steps}, lr {lr} and weight_decay {weight_decay} must be finite and not below 0")


def _kept(features: torch.Tensor, texts: torch.Tensor, keep: float) -> int:
    """How many views of each picture count; InputError for features that cannot be compared with the texts."""
    if features.dim() != 3 or features.shape[2] != texts.shape[1] or not len(features):
        raise InputError(
            f"features of views are {list(features.shape)}; expected [pictures, views, {texts.shape[1]}], "
            "as wide as the model's text features"
        )
    bad = ~features.isfinite().all(dim=2)
    if bad.any():
        picture, view = bad.nonzero()[0].tolist()
        raise InputError(
            f"picture {picture}, view {view}: its features are not finite ({int(bad.sum())} of {bad.numel()} views); "
            "check the picture, or try fp32"
        )
    views = features.shape[1]
    if not 0 < keep <= 1 or int(views * keep) < 1:
        raise InputError(
            f"keep {keep} of {views} views leaves none, or more than there are; it must be at most 1, and at least "
            f"1 / {views} with so few views"
        )
    return int(views * keep)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of softmax over the last dimension: [..., K] to [...]."""
    log = logits.log_softmax(dim=-1)
    return -(log.exp() * log).sum(dim=-1)


def mean_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the mean over k of softmax over K: [..., k, K] to [...].

    The mean is taken of logarithms and kept finite, so that logits far apart give neither NaN nor infinity.
    """
    log = logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(logits.shape[-2])
    log = log.clamp(min=torch.finfo(log.dtype).min)
    return -(log.exp() * log).sum(dim=-1)
