"""Rates and times of one task, for its progress bar, its file of metrics and its last log line."""

from __future__ import annotations

import time
from pathlib import Path

from hitvideo.runs import history
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.job import Stages

_LOG_SECONDS = 10.0


class TaskMeter:
    """Computes rates and times from the pipeline's stages."""

    def __init__(self, stages: Stages, pool: DecodingPool, file: Path, attempt: int) -> None:
        """`file`: the task's file of metrics. `attempt`: the number of this start."""
        self.stages, self.pool, self.file, self.attempt = stages, pool, file, attempt
        rows = [line.content for line in history.read_lines(file)]
        self._before, self._last = max((row["step"] for row in rows), default=0), -1
        self.start = self._logged = time.monotonic()

    @property
    def frames_per_s(self) -> float:
        return self.stages.frames / max(time.monotonic() - self.start, 1e-9)

    def words(self) -> str:
        return f"{self.frames_per_s:.0f} frames/s, {self.stages.rejects} rejected"

    def log_if_due(self) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            self.log()

    def log(self) -> None:
        """Add a row to the task's file of metrics. Its step is the number of clips, those of earlier starts included."""
        stages = self.stages
        step = self._before + stages.clips
        if step == self._last:
            return
        row = {"step": step, "frames_per_s": self.frames_per_s, "clips": stages.clips, "rejected": stages.rejects}
        row |= {"decode_s": self.pool.seconds, "wait_s": stages.wait, "encode_s": stages.encode, "commit_s": stages.commit}
        history.append(self.file, history.stamped(row, self.attempt))
        self._last = step

    def summary(self) -> str:
        stages, elapsed = self.stages, time.monotonic() - self.start
        bottleneck = "decoding" if stages.wait > stages.encode else "encoding"
        return (
            f"{stages.clips} clips, {stages.rejects} rejected, {elapsed:.1f} s, {self.frames_per_s:.0f} frames/s; seconds: "
            f"decode {self.pool.seconds:.1f} over {self.pool.workers or 1} worker(s), wait for decoders {stages.wait:.1f}, "
            f"encode {stages.encode:.1f}, commit {stages.commit:.1f}; bottleneck: {bottleneck}"
        )
