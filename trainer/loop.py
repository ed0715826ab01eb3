"""Train a CLIP model on a mixture: from the first step, or from where a killed run stopped, to a model folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from filters.errors import HeadwaterError
from trainer.checkpoints import EMA, Checkpoints, mean_weights
from trainer.config import TrainConfig
from trainer.device import device_of, process_settings, random_state, set_random_state
from trainer.loader import open_loader
from trainer.logs import Log
from trainer.model import LoadedModel, write_atomically, write_config, write_weights
from trainer.optimizer import learning_rate
from trainer.ranks import Ranks
from trainer.record import RECORD_NAME, finished, identity
from trainer.start import Start, for_inference, start
from trainer.step import StepResult, TrainStep
from trainer.texts import text_lengths
from trainer.window import Watch, Window
from trainer.work import Work

CHECKPOINTS = "checkpoints"
AVERAGE = "average"
Evaluate = Callable[[LoadedModel], dict[str, Any]]


def train(
    manifest: Path, shards_root: Path | str, out: Path, config: TrainConfig, evaluate: Evaluate | None = None
) -> dict[str, Any]:
    """Train `config.model` on the manifest's pairs and write a model folder that open_clip loads as `local-dir:`.

    `out` gets `open_clip_config.json`, `open_clip_model.safetensors`, `metrics.jsonl`, `speed.jsonl` and, last,
    `train.json`, whose content is returned. A folder whose `train.json` has the same fingerprint (configuration,
    architecture, manifest) is returned as it is; a run that was killed goes on from its last checkpoint, to the very
    weights that it would have had. Same fingerprint, processes, threads and library versions: the same weights, bit
    for bit. `evaluate` is called with the model in evaluation mode every `config.evaluate_every` samples and at the
    end, by the first process; its numbers go to the metrics.

    All processes of a process group call this together, with one `out` that all of them see.

    Raises ModelError, InputError, SchemaError or ShardError for what it is given, HeadwaterError when the loss is no
    longer finite or rises for good, and says which checkpoint is the last good one.
    """
    ranks = Ranks.current()
    record = identity(manifest, config)
    done = finished(out)
    ranks.barrier()  # nobody starts to write before everybody has looked
    if done is not None and done.get("fingerprint") == record["fingerprint"]:
        return done
    if ranks.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        (out / RECORD_NAME).unlink(missing_ok=True)
    with process_settings(config, ranks):
        result = _Run(manifest, shards_root, out, config, record["fingerprint"], ranks, evaluate).to_the_end()
    record.update(result)
    if ranks.rank == 0:
        write_atomically(out / RECORD_NAME, json.dumps(record, indent=2, sort_keys=True) + "\n")
    ranks.barrier()
    return record


class _Run:
    """One training run of one process: what it holds, and how it goes from step to step."""

    def __init__(
        self,
        manifest: Path,
        shards_root: Path | str,
        out: Path,
        config: TrainConfig,
        fingerprint: str,
        ranks: Ranks,
        evaluate: Evaluate | None,
    ) -> None:
        self.out, self.config, self.ranks, self.evaluate = out, config, ranks, evaluate
        self.steps = max(1, config.samples_seen // config.batch)
        self.start: Start = start(config)
        self.device = device_of(config)
        self.loader = open_loader(manifest, shards_root, self.start, config, ranks, self.device)
        self.sources = self.loader.dataset.sources
        self.checkpoints = Checkpoints(
            out / CHECKPOINTS, self._describe, fingerprint, every=config.save_every, keep_every=config.keep_every
        )
        self.done = 0
        self.tail = torch.zeros(2, dtype=torch.float64)  # sum and number of the losses of the last tenth of the steps
        self.watch = Watch()

    def to_the_end(self) -> dict[str, Any]:
        saved = self._last_checkpoint()
        self.step = TrainStep(self.start.model, self.config, device=self.device, ranks=self.ranks, steps=self.steps)
        if saved is not None:
            self._restore(saved)
        self.work = Work.of(self.start.model, self.start.tokenizer.context_length, self.config, self.device)
        self.log = Log(self.out, self.config, self.out.name, self._samples) if self.ranks.rank == 0 else None
        # One that cannot be closed, as a log on a full disk, leaves none of the others open.
        with contextlib.ExitStack() as ends:
            ends.callback(self.checkpoints.close)
            if self.log is not None:
                ends.callback(self.log.close)
            ends.callback(self.loader.close)
            self._steps()
        if self.ranks.rank == 0:
            self._write_model()
        return self._result()

    @property
    def _samples(self) -> int:
        return self.done * self.config.batch

    def _last_checkpoint(self) -> dict[str, Any] | None:
        if self.ranks.rank == 0:
            self.checkpoints.discard_others()
        self.ranks.barrier()
        found = self.checkpoints.latest()
        if found is None:
            return None
        weights, state = found
        self.start.model.load_state_dict(weights)
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.step.load_state_dict(state["step"])
        loader = json.loads(state["loader"])
        # The first process goes on counting what all have met.
        self.loader.load_state_dict(loader if self.ranks.rank == 0 else {**loader, "decode_errors": {}})
        self.done, self.tail = state["done"], state["tail"]
        self.watch = Watch(*state["watch"])
        if self.ranks.rank < len(state["rng"]):
            set_random_state(state["rng"][self.ranks.rank], self.device)

    def _steps(self) -> None:
        window, batches = Window(), iter(self.loader)
        while self.done < self.steps:
            waiting = time.perf_counter()
            batch = next(batches)
            window.waited += time.perf_counter() - waiting
            tokens = int(text_lengths(self.start.model, batch.tokens).sum())
            found = self.step(batch, learning_rate(self.done, self.steps, self.config))
            self.done += 1
            window.add(batch, found, len(self.sources), tokens)
            if self.done > self.steps - max(1, self.steps // 10):
                self.tail += torch.stack([found.loss.double().cpu(), torch.ones((), dtype=torch.float64)])
            if self.device.type == "cpu":  # where looking at it costs nothing
                self._check_finite(float(found.loss))
            if self.done % self.config.log_every == 0 or self.done == self.steps:
                self._write_line(window)
                window = Window()
            self._now_and_then(found)

    def _now_and_then(self, found: StepResult) -> None:
        """What is done every so many samples."""
        if self._passes(self.config.save_every) and self.done < self.steps:
            self._check_finite(float(found.loss))
            self._save()
        if self.evaluate and (self._passes(self.config.evaluate_every) or self.done == self.steps):
            self._evaluate(self.evaluate)

    def _passes(self, every: int | None) -> bool:
        """Whether this step went past a multiple of `every` samples."""
        return every is not None and self._samples // every > (self._samples - self.config.batch) // every

    def _write_line(self, window: Window) -> None:
        metrics = window.metrics(self.sources, self.ranks)
        self._check_finite(metrics["mean_loss"])
        if self.log is not None:
            head = {"step": self.done, "samples_seen": self._samples, "epoch": self.loader.epoch}
            state = {
                "lr": learning_rate(self.done - 1, self.steps, self.config),
                "logit_scale": float(self.start.model.logit_scale.detach().exp()),
                "decode_errors": sum(self.loader.decode_errors.values()),
            }
            speed = window.speed(self.work, self.ranks)
            self.log.write({**head, **metrics, **state}, {**head, **speed})
        if self.watch.diverged(metrics["mean_loss"]):
            raise self._stopped(
                f"the loss rose to {metrics['mean_loss']:.3f}, above its first {self.watch.first:.3f}"
            )

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._stopped(f"the loss is {loss}")

    def _stopped(self, why: str) -> HeadwaterError:
        self.checkpoints.wait()
        good = self.checkpoints.all()
        last = f"the last good checkpoint is {good[-1]}" if good else "no checkpoint was written, see `save_every`"
        return HeadwaterError(
            f"training stopped at step {self.done} of {self.steps}: {why}; lower `lr`, or warm up longer; {last}"
        )

    def _save(self) -> None:
        states = self.ranks.objects((random_state(self.device), self.loader.state_dict()))
        if self.ranks.rank:
            return
        loader = {**states[0][1], "decode_errors": _together([one["decode_errors"] for _, one in states])}
        state = {
            "done": self.done,
            "step": self.step.state_dict(),
            "loader": json.dumps(loader),
            "tail": self.tail,
            "watch": list(dataclasses.astuple(self.watch)),
            "rng": [random for random, _ in states],
        }
        self.checkpoints.save(self._samples, self.start.model.state_dict(), self._averaged_weights(), state)

    def _evaluate(self, evaluate: Evaluate) -> None:
        if self.log is not None:
            model = self.start.model.eval()
            with torch.inference_mode():
                found = evaluate(for_inference(self.start, model, self.device))
            model.train()
            self.log.evaluated({"step": self.done, "samples_seen": self._samples, "evaluation": found})
        self.ranks.barrier()

    def _averaged_weights(self) -> dict[str, torch.Tensor] | None:
        return self.step.average.state_dict() if self.step.average else None

    def _describe(self, folder: Path) -> None:
        write_config(self.start.architecture, folder)
        if hasattr(self.start.tokenizer, "save_pretrained"):  # Hugging Face's; open_clip's own lies in its package
            self.start.tokenizer.save_pretrained(str(folder))

    def _write_model(self) -> None:
        averaged = (
            [*self.checkpoints.all()[-(self.config.average - 1) :], self.out] if self.config.average > 1 else []
        )
        written = {self.out: self.start.model.state_dict(), self.out / EMA: self._averaged_weights()}
        for folder, weights in written.items():
            if weights is not None:
                folder.mkdir(exist_ok=True)
                self._describe(folder)
                write_weights({key: value.cpu() for key, value in weights.items()}, folder)
        if averaged:
            (self.out / AVERAGE).mkdir(exist_ok=True)
            self._describe(self.out / AVERAGE)
            write_weights(mean_weights(averaged), self.out / AVERAGE)
        self.checkpoints.tidy()

    def _result(self) -> dict[str, Any]:
        errors = _together(self.ranks.objects(self.loader.state_dict()["decode_errors"]))
        return {
            "steps": self.steps,
            "samples_seen": self._samples,
            "pairs": len(self.loader.dataset),
            "decode_errors": sum(error["count"] for error in errors.values()),
            "final_loss": round(float(self.tail[0] / self.tail[1]), 6),
        }


def _together(parts: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Decode errors by uid of all processes: how often, and the reason."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for uid, error in part.items():
            known = found.setdefault(uid, {"count": 0, "reason": error["reason"]})
            known["count"] += error["count"]
    return dict(sorted(found.items()))
