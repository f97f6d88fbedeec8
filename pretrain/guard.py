"""Skips steps whose loss is not finite or jumps, and after several in a row returns to the last checkpoint.

A loss is judged before the weights change, by its mean over all ranks, which is equal on all of them. A gradient that is
not finite is found by DeepSpeed, on all ranks together. Either way the weights keep their values, and `skipped.jsonl`
names the step's samples. After `patience` such steps in a row something earlier has gone wrong: the run returns to its
last checkpoint and continues with the data *after* the bad ones (Chowdhery et al. 2022, section 5.1), a limited number of
times. The last losses are part of the checkpoint and returns are recorded in the run directory, so a resumed run judges like
one never stopped.

If after a return the first `patience` losses jump again, with the very weights that were good, and with other data, then it is
the data that differ: the losses that were skipped become the recent ones, and the run goes on. The same holds for a run
that resumes with other data.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hitvideo.settings.run import FaultsSection

if TYPE_CHECKING:
    from pretrain.task import Task

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The run returned to a checkpoint as often as it may."""


class Guard:
    """Judges every step; the same on all ranks."""

    def __init__(self, faults: FaultsSection, file: Path, writer: bool) -> None:
        """`file`: where skipped steps are listed, by the rank that is the `writer`."""
        self._faults = faults
        self._file = file
        self._writer = writer
        self._losses: deque[float] = deque(maxlen=faults.spike_window)
        self._in_a_row = 0
        self._rollbacks = 0
        self._jumps: list[float] | None = None
        """Losses skipped in a row for a jump, with the weights of a checkpoint that was good; None: with other weights."""

    def settle(self, task: Task, loss: float, step: int) -> bool:
        """Finish a step: update the weights, or skip it on all ranks. True if the weights were updated."""
        reason = self.bad(loss)
        applied = task.engine.step(discard=reason is not None)
        if applied:
            self.good(loss)
        else:
            self.skipped(step, reason or "gradient is not finite", task.sample_keys(step), loss)
        return applied

    def bad(self, loss: float) -> str | None:
        """Why a step with this loss must not change the weights; None if it may."""
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
        self._jumps = None

    def skipped(self, step: int, reason: str, keys: list[str], loss: float = math.nan) -> None:
        """Record a skipped step; `keys` are those of the samples in its global batch."""
        self._in_a_row += 1
        if self._jumps is not None:
            self._jumps = [*self._jumps, loss] if self.bad(loss) and math.isfinite(loss) else None
        if self._writer:
            log.warning("step %d skipped (%s): weights unchanged, samples listed in %s", step, reason, self._file)
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, "reason": reason, "keys": keys}) + "\n")
        if self._jumps is not None and len(self._jumps) >= self._faults.patience:
            if self._writer:
                log.warning("step %d: good weights, and %d jumps in a row: these losses are now usual", step, len(self._jumps))
            self._losses.clear()
            self._losses.extend(self._jumps)
            self._in_a_row, self._jumps = 0, None

    @property
    def hopeless(self) -> bool:
        """Whether enough steps in a row were bad to doubt the weights themselves."""
        return self._in_a_row >= self._faults.patience

    def roll_back(self, step: int, to: int) -> None:
        """Note that the run returns from `step` to `to`. Raises Diverged if it has done so too often."""
        self._rollbacks += 1
        if self._rollbacks > self._faults.most_rollbacks:
            raise Diverged(
                f"{self._in_a_row} bad steps in a row up to step {step}, and faults.most_rollbacks "
                f"{self._faults.most_rollbacks} is used up; see {self._file}; a lower train.lr is the usual fix, with "
                "--allow-change train.lr"
            )
        self._in_a_row, self._jumps = 0, []
        if self._writer:
            log.warning("returned from step %d to the checkpoint of step %d; continuing with later data", step, to)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; equal on all ranks."""
        return {"losses": list(self._losses), "in_a_row": self._in_a_row}

    def load_state(self, state: dict[str, Any], rollbacks: int = 0, other_data: bool = False) -> None:
        """Take `state` back. `rollbacks`: how often the run has returned. `other_data`: than those of the checkpoint's losses,
        by a change of data or a return to it.
        """
        self._losses.clear()
        self._losses.extend(state.get("losses", ()))
        self._in_a_row = 0 if other_data else state.get("in_a_row", 0)
        self._rollbacks = rollbacks
        self._jumps = [] if other_data else None
