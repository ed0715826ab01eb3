"""What a run writes about itself: metrics, speed, TensorBoard, Weights & Biases and a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from filters.errors import ConfigError
from trainer.config import TrainConfig
from trainer.model import write_atomically

METRICS_NAME = "metrics.jsonl"
SPEED_NAME = "speed.jsonl"
Line = Mapping[str, Any]


class Log:
    """The logs of one run in its folder, continued after `samples` that were seen before.

    `metrics.jsonl` has what follows from configuration, data and library versions, and is the same bytes for the same
    run; `speed.jsonl` has what a clock says. Lines of both with the same `step` belong together. Numbers go to
    TensorBoard (`tensorboard/`) and Weights & Biases too, if the configuration asks for them.

    Raises ConfigError if what it asks for is not installed.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, name: str, samples: int = 0, *, quiet: bool = False
    ) -> None:
        self._board = _tensorboard(folder, samples // config.batch) if config.tensorboard else None
        self._wandb = _weights_and_biases(folder, config, name) if config.wandb else None
        self._files = {part: _continued(folder / part, samples) for part in (METRICS_NAME, SPEED_NAME)}
        self._bar = tqdm(
            total=config.samples_seen,
            initial=samples,
            unit="pair",
            unit_scale=True,
            desc=name,
            file=sys.stderr,
            disable=None,  # shown only where a person is looking
        )

    def write(self, metrics: Line, speed: Line) -> None:
        """A line of each; both have `step` and `samples_seen`."""
        self._line(METRICS_NAME, metrics)
        self._line(SPEED_NAME, speed)
        self._bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        self._bar.update(metrics["samples_seen"] - self._bar.n)
        self._send({**metrics, **speed})

    def evaluated(self, found: Line) -> None:
        """A line of what evaluation found, with `step` and `samples_seen`."""
        self._line(METRICS_NAME, found)
        self._send(found)

    def close(self) -> None:
        """Write out everything."""
        self._bar.close()
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _line(self, name: str, line: Line) -> None:
        self._files[name].write(json.dumps(line) + "\n")
        self._files[name].flush()

    def _send(self, line: Line) -> None:
        numbers = dict(_numbers("", {key: value for key, value in line.items() if key != "step"}))
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, line["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=line["step"])


def _continued(path: Path, samples: int) -> TextIO:
    """The file open for writing after its whole lines up to `samples`; a killed run may have written more."""
    kept = []
    if samples and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["samples_seen"] <= samples:
                    kept.append(line + "\n")
            except ValueError:
                break  # the last line, cut short
    write_atomically(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _numbers(prefix: str, line: Line) -> list[tuple[str, float]]:
    """Numbers by dotted name: those of a mapping in `line` under its key."""
    found: list[tuple[str, float]] = []
    for key, value in line.items():
        if isinstance(value, Mapping):
            found += _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, int | float):
            found.append((prefix + key, float(value)))
    return found


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard: it is not installed; `pip install tensorboard`, or leave it out") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)


def _weights_and_biases(folder: Path, config: TrainConfig, name: str) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("wandb: it is not installed; `pip install wandb`, or leave it out") from error
    return wandb.init(
        project=config.wandb,
        name=name,
        id=name.replace("/", "-"),
        resume="allow",
        dir=str(folder),
        config=config.model_dump(),
    )
