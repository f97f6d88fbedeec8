"""A run's samples as MLflow shows them: each video as a file of its step, and as a picture under a key that stays the same.

    videos/prompts-0/step_00000400.mp4       the video       samples/prompts-0, step 400       four of its frames
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.runs.directory import RunDirectory
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip, probe
from hitvideo.video.pixels import Frames

if TYPE_CHECKING:
    from hitvideo.tracking.store import Store

log = logging.getLogger(__name__)
_FRAMES = 4
_WIDEST = 256  # of a frame in the picture


@dataclass(frozen=True)
class SampleFile:
    """A file to upload; without a step, as it is."""

    path: Path
    step: int | None = None

    def send(self, store: Store, run_id: str) -> None:
        """Upload it. A video that cannot be decoded is uploaded without a picture."""
        if self.step is None:
            store.keep_file(run_id, self.path, self.path.name)
            return
        stem, kind = self.path.stem, self.path.suffix
        folder = "videos" if kind == ".mp4" else "pictures"
        store.keep_file(run_id, self.path, f"{folder}/{stem}/step_{self.step:08d}{kind}")
        if kind != ".mp4":
            return
        try:
            picture = frames_of(self.path)
        except VideoError as error:
            log.warning("MLflow gets no picture of a sample: %s", error)
            return
        stamp = round(1000 * self.path.stat().st_mtime)
        store.show_picture(run_id, picture, f"samples/{stem}", self.step, stamp)


def sample_files(run: RunDirectory) -> Iterator[SampleFile]:
    """Videos and pictures in the run's samples, each with the last step that was logged before it was written."""
    rows = [(row["time"], row["step"]) for row in run.metrics() if "time" in row]
    for path in sorted(run.samples.glob("*")):
        if path.suffix in (".mp4", ".png") and path.is_file() and not path.is_symlink():
            written = path.stat().st_mtime
            yield SampleFile(path, max((step for moment, step in rows if moment <= written), default=0))


def frames_of(path: Path) -> Frames:
    """Frames at equal distances, side by side: uint8 (H, W, 3). Raises VideoError."""
    info = probe(path)
    scale = min(1.0, _WIDEST / max(info.width, info.height))
    height, width = (max(2, round(side * scale)) for side in (info.height, info.width))
    seconds = max(info.seconds or 1.0, 1e-3)
    clip = ClipShape(frames=_FRAMES, height=height, width=width, fps=_FRAMES / seconds)
    frames = decode_clip(path, clip, LimitsSection())
    return np.concatenate(list(frames), axis=1)
