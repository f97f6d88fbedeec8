"""Pictures and figures that a run keeps for its report: groups of labelled videos, and evaluation results.

    runs/NAME/samples/GROUP.json       {"title": …, "videos": [{"label": …, "file": …}, …]}, with its mp4 files next to it
    runs/NAME/evaluation/NAME.json     figures, as `hitvideo evaluate` prints them
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hitvideo.files import replace_json
from hitvideo.runs.directory import RunDirectory
from hitvideo.video.encode import write_mp4
from hitvideo.video.pixels import Frames


def save_videos(run: Path, group: str, title: str, videos: Sequence[tuple[str, Frames]], fps: float) -> list[Path]:
    """Write labelled uint8 videos (T, H, W, 3) as one group; returns their files."""
    samples = RunDirectory(run).samples
    paths = [samples / f"{group}-{number}.mp4" for number in range(len(videos))]
    for path, (_, frames) in zip(paths, videos, strict=True):
        write_mp4(path, frames, fps)
    rows = [{"label": label, "file": path.name} for path, (label, _) in zip(paths, videos, strict=True)]
    replace_json(samples / f"{group}.json", {"title": title, "videos": rows})
    return paths


def groups(run: Path) -> list[dict[str, Any]]:
    """All groups of a run, by name."""
    return [json.loads(path.read_text()) for path in sorted(RunDirectory(run).samples.glob("*.json"))]


def save_figures(run: Path, name: str, figures: dict[str, Any]) -> None:
    """Keep the results of an evaluation."""
    replace_json(RunDirectory(run).evaluation / f"{name}.json", figures)
