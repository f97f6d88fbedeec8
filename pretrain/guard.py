"""What to do with a step whose loss is not finite or jumps: leave it out, and after several go back. Decided on all ranks.

A loss is judged before the weights are touched, by its mean over all ranks, which every rank has alike. A gradient that is
not finite is seen by DeepSpeed, on all ranks together. Either way the weights keep their values and the data of the step are
named in `skipped.jsonl`. After `patience` such steps in a row something before them has gone wrong: the run goes back to
its last checkpoint and on with the data *behind* the bad ones (Chowdhery et al. 2022, section 5.1), a limited number of
times. The last losses and the data passed over are part of the checkpoint, so a resumed run judges as the one never stopped.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

from hitvideo.settings.run import FaultsSection

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The run went back as often as it may."""


class Guard:
    """`bad` before a step, `good` or `skipped` after it; `hopeless` says when to go back."""

    def __init__(self, faults: FaultsSection, directory: Path, writer: bool) -> None:
        self._faults = faults
        self._file = directory / "skipped.jsonl"
        self._writer = writer
        self._losses: deque[float] = deque(maxlen=faults.spike_window)
        self._in_a_row = 0
        self._rollbacks = 0
        self.passed_over = 0
        """Steps' worth of data that rollbacks have jumped over: step s trains on the data of step s + this."""

    def bad(self, loss: float) -> str | None:
        """Why a step with this loss must not change the weights; None: it may."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if self._faults.spike_sigmas and len(self._losses) == self._losses.maxlen:
            mean, sigma = statistics.fmean(self._losses), statistics.pstdev(self._losses)
            if loss > mean + self._faults.spike_sigmas * sigma:
                return f"loss {loss:.4g} is above {mean:.4g} + {self._faults.spike_sigmas:g} × {sigma:.4g}"
        return None

    def good(self, loss: float) -> None:
        self._losses.append(loss)
        self._in_a_row = 0

    def skipped(self, step: int, reason: str, keys: list[str]) -> None:
        """A step was left out; `keys` are those of the samples in its global batch."""
        self._in_a_row += 1
        if self._writer:
            log.warning("step %d changed nothing: %s; its samples stand in %s", step, reason, self._file)
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, "reason": reason, "keys": keys}) + "\n")

    @property
    def hopeless(self) -> bool:
        """Whether so many steps in a row were bad that the weights themselves must be doubted."""
        return self._in_a_row >= self._faults.patience

    def roll_back(self, step: int, to: int) -> None:
        """The run goes from `step` back to `to`. Raises Diverged where it has done so often enough."""
        self._rollbacks += 1
        if self._rollbacks > self._faults.most_rollbacks:
            raise Diverged(
                f"{self._in_a_row} bad steps in a row up to step {step}, and faults.most_rollbacks "
                f"{self._faults.most_rollbacks} is used up; see {self._file}; a lower train.lr is the usual mend"
            )
        self._in_a_row = 0
        self.passed_over += step - to
        if self._writer:
            log.warning("back from step %d to the checkpoint of step %d, and on with later data", step, to)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; equal on all ranks."""
        return {"losses": list(self._losses), "in_a_row": self._in_a_row, "passed_over": self.passed_over}

    def load_state(self, state: dict[str, Any]) -> None:
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
        self._in_a_row = state.get("in_a_row", 0)
        self.passed_over = state.get("passed_over", 0)
