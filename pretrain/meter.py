"""Running means of losses and times between log rows, and the progress bar."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch
from tqdm import tqdm

from hitvideo.parallel.engine import Engine
from hitvideo.runs.heartbeat import Heartbeat
from pretrain.usage import Usage

TRAINING_PHASES = ("fetch", "forward and backward", "step")  # tokens per second count these; not validation and saving


class Meter:
    """Losses and times since the last logged row."""

    def __init__(self, engine: Engine, rows_per_step: int, heartbeat: Heartbeat | None = None) -> None:
        self._engine = engine
        self._rows_per_step = rows_per_step
        self._heartbeat = heartbeat
        self._usage = Usage(engine.topology.device)
        self._step: list[dict[str, torch.Tensor]] = []
        self._norm: torch.Tensor | float = math.nan
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, torch.Tensor] = {}
        self._micro_batches = 0
        self._skipped = 0
        self._steps = 0
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str, step: int) -> Iterator[None]:
        """Spend the block in a phase of a step: the heartbeat shows it, and its time is added up.

        On a GPU the time includes work that is still queued when a value is read.
        """
        if self._heartbeat:
            self._heartbeat.beat(name, step)
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Losses of one micro-batch; they stay on the device, because reading a value would wait for it."""
        self._step.append({name: value.detach().float() for name, value in losses.items()})

    def loss(self) -> torch.Tensor:
        """Mean loss of the current step over this rank's micro-batches, in fp64 and on the device."""
        return torch.stack([losses["loss"] for losses in self._step]).double().mean()

    def close_step(self, applied: bool) -> None:
        """End the current step; its losses count only if the weights were updated."""
        for losses in self._step if applied else ():
            self._micro_batches += 1
            for name, value in losses.items():
                self._losses[name] = self._losses.get(name, 0.0) + value
        self._steps += 1
        self._skipped += not applied
        self._norm = self._engine.unread_norm if applied else self._norm
        self._step = []

    def row(self) -> dict[str, float]:
        """Means over the steps since the last row, equal on all ranks; empty if no step counted. The meter starts over."""
        if not self._micro_batches:
            return {}
        means = {name: value.item() / self._micro_batches for name, value in self._losses.items()}
        seconds = sum(self._seconds[name] for name in TRAINING_PHASES)
        means = self._engine.mean({**means, "data_wait_s": self._seconds["fetch"] / self._steps, "seconds": seconds})
        rate = self._steps * self._rows_per_step / means.pop("seconds")
        row = {**means, "grad_norm": float(self._norm), "rows_per_s": rate, **self._usage.row()}
        if self._skipped:
            row["skipped"] = self._skipped
        self._reset()
        return row


class Progress:
    """The progress bar; in a file, a line every half minute."""

    def __init__(self, done: int, steps: int, shown: bool) -> None:
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=steps, initial=done, disable=not shown, mininterval=interval, unit="step", dynamic_ncols=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._bar.close()

    def show(self, step: int, row: dict[str, float]) -> None:
        words = [f"loss {row['loss']:.3f}", f"norm {row['grad_norm']:.2f}", f"{row['tokens_per_s']:.0f} tok/s"]
        self._bar.set_postfix_str(" ".join(words), refresh=False)
        self._bar.update(step - self._bar.n)
