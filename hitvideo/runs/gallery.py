"""Pictures and figures that a run keeps for its report: groups of labelled videos, and evaluation results.

    runs/NAME/samples/GROUP.json       {"title": …, "videos": [{"label": …, "file": …}, …]}, with its mp4 files next to it
    runs/NAME/evaluation/NAME.json     figures, as `hitvideo evaluate` prints them

A run may come from somebody else: only videos and pictures inside its samples are read, whatever a group names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError, short
from hitvideo.files import read_json, replace_json
from hitvideo.runs.directory import RunDirectory
from hitvideo.video.encode import write_mp4
from hitvideo.video.pixels import Frames

KINDS = (".mp4", ".png")
LARGEST_FILE = 64 << 20


@dataclass
class Group:
    """One group of a run's gallery."""

    title: str
    videos: list[tuple[str, Path]] = field(default_factory=list)
    """Label and file."""
    left_out: list[str] = field(default_factory=list)
    """What the group names and a report cannot show, and why."""


def save_videos(run: Path, group: str, title: str, videos: Sequence[tuple[str, Frames]], fps: float) -> list[Path]:
    """Write labelled uint8 videos (T, H, W, 3) as one group; returns their files."""
    samples = RunDirectory(run).samples
    paths = [samples / f"{group}-{number}.mp4" for number in range(len(videos))]
    for path, (_, frames) in zip(paths, videos, strict=True):
        write_mp4(path, frames, fps)
    list_videos(run, group, title, [(label, path.name) for path, (label, _) in zip(paths, videos, strict=True)])
    return paths


def list_videos(run: Path, group: str, title: str, videos: Sequence[tuple[str, str]]) -> None:
    """Make a group of labelled files that are in the run's samples already: (label, file name)."""
    rows = [{"label": label, "file": name} for label, name in videos]
    replace_json(RunDirectory(run).samples / f"{group}.json", {"title": title, "videos": rows})


def groups(run: Path) -> list[Group]:
    """All groups of a run, by name."""
    return [_group(path) for path in sorted(RunDirectory(run).samples.glob("*.json"))]


def save_figures(run: Path, name: str, figures: dict[str, Any]) -> None:
    """Keep the results of an evaluation."""
    replace_json(RunDirectory(run).evaluation / f"{name}.json", figures)


def _group(path: Path) -> Group:
    try:
        content = read_json(path, "group of videos")
    except ConfigError as error:
        return Group(path.stem, left_out=[str(error)])
    group = Group(short(content.get("title", path.stem)))
    rows = content.get("videos")
    for row in rows if isinstance(rows, list) else []:
        named = row.get("file") if isinstance(row, dict) else None
        if not isinstance(named, str) or (flaw := _flaw(path.parent, named)):
            group.left_out.append(f"{short(named)}: {flaw if isinstance(named, str) else 'no file is named'}")
        else:
            group.videos.append((short(row.get("label", "")), path.parent / named))
    return group


def _flaw(samples: Path, name: str) -> str:
    """Why a report does not show a file that a group names; empty if it does."""
    if "\0" in name or Path(name).name != name or Path(name).suffix not in KINDS:
        return "not the name of an mp4 or png in the run's samples"
    path = samples / name
    if path.is_symlink() or not path.is_file():
        return "no such file"
    if path.stat().st_size > LARGEST_FILE:
        return f"larger than {LARGEST_FILE} bytes"
    return ""
