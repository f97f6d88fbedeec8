"""Rates and times of one task, for its progress bar, MLflow and its last log line."""

from __future__ import annotations

import time

from tokenize_shards.decoding import DecodingPool
from tokenize_shards.job import Stages

_LOG_SECONDS = 10.0


class TaskMeter:
    """Computes rates and times from the pipeline's stages."""

    def __init__(self, stages: Stages, pool: DecodingPool, name: str) -> None:
        self.stages, self.pool, self.name = stages, pool, name
        self.start = self._logged = time.monotonic()

    @property
    def frames_per_s(self) -> float:
        return self.stages.frames / max(time.monotonic() - self.start, 1e-9)

    def words(self) -> str:
        return f"{self.frames_per_s:.0f} frames/s, {self.stages.rejects} rejected"

    def row(self) -> dict[str, float]:
        """Return a row for MLflow, with the task's name before each metric."""
        stages = self.stages
        row = {"frames_per_s": self.frames_per_s, "clips": stages.clips, "rejected": stages.rejects}
        row |= {"decode_s": self.pool.seconds, "wait_s": stages.wait, "encode_s": stages.encode, "commit_s": stages.commit}
        return {f"{self.name}/{key}": value for key, value in row.items()}

    def row_if_due(self) -> dict[str, float] | None:
        now = time.monotonic()
        if now - self._logged < _LOG_SECONDS:
            return None
        self._logged = now
        return self.row()

    def summary(self) -> str:
        stages, elapsed = self.stages, time.monotonic() - self.start
        bottleneck = "decoding" if stages.wait > stages.encode else "encoding"
        return (
            f"{stages.clips} clips, {stages.rejects} rejected, {elapsed:.1f} s, {self.frames_per_s:.0f} frames/s; seconds: "
            f"decode {self.pool.seconds:.1f} over {self.pool.workers or 1} worker(s), wait for decoders {stages.wait:.1f}, "
            f"encode {stages.encode:.1f}, commit {stages.commit:.1f}; bottleneck: {bottleneck}"
        )
