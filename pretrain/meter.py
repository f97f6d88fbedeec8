"""What the loop says of itself: losses and times of the steps since the last logged row, and a line of progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType

import torch
from tqdm import tqdm

from hitvideo.parallel.engine import Engine


class Meter:
    """Losses and times since the last logged row."""

    def __init__(self, engine: Engine, rows_per_step: int) -> None:
        self._engine = engine
        self._rows_per_step = rows_per_step
        self._step: list[dict[str, torch.Tensor]] = []
        self._norm = math.nan
        self._reset()

    def _reset(self) -> None:
        self._losses: dict[str, torch.Tensor] = {}
        self._micro_batches = 0
        self._skipped = 0
        self._steps = 0
        self._seconds = 0.0
        self._waited = 0.0

    def timed(self) -> Stopwatch:
        self._steps += 1
        return Stopwatch(self._add_seconds)

    def waiting(self) -> Stopwatch:
        return Stopwatch(self._add_waited)

    def _add_seconds(self, seconds: float) -> None:
        self._seconds += seconds

    def _add_waited(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Losses of one micro-batch; they stay on the device, because reading a value would wait for it."""
        self._step.append({name: value.detach().float() for name, value in losses.items()})

    def loss(self) -> float:
        """Mean loss of the step under way over its micro-batches and all ranks, which have it alike."""
        return self._engine.mean({"loss": float(sum(losses["loss"] for losses in self._step)) / len(self._step)})["loss"]

    def close_step(self, applied: bool) -> None:
        """The step is over; it counts only where the weights were updated."""
        for losses in self._step if applied else ():
            self._micro_batches += 1
            for name, value in losses.items():
                self._losses[name] = self._losses.get(name, 0.0) + value
        self._skipped += not applied
        self._norm = self._engine.grad_norm if applied else self._norm
        self._step = []

    def row(self) -> dict[str, float]:
        """Means over the steps since the last row, equal on all ranks, and the meter starts anew; empty where none counted."""
        if not self._micro_batches:
            return {}
        means = {name: value.item() / self._micro_batches for name, value in self._losses.items()}
        means = self._engine.mean({**means, "data_wait_s": self._waited / self._steps, "seconds": self._seconds})
        rate = self._steps * self._rows_per_step / means.pop("seconds")
        row = {**means, "grad_norm": self._norm, "rows_per_s": rate}
        if self._skipped:
            row["skipped"] = self._skipped
        self._reset()
        return row


class Stopwatch:
    """Adds the time spent inside to a sum; on a GPU that includes the work still queued when a row is read."""

    def __init__(self, add: Callable[[float], None]) -> None:
        self._add = add

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._add(time.perf_counter() - self._start)


class Progress:
    """One line that says how far the run is; a new line every half minute where the output is a file."""

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
