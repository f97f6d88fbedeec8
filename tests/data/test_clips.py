"""Where training clips are cut from their videos."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.data import clips
from hitvideo.data.clips import ClipSource
from hitvideo.data.video_shards import VideoSample, list_shards, write_shards
from hitvideo.errors import ShardError, VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.encode import encode_mp4

CLIP = ClipShape(frames=4, height=16, width=16, fps=8)
FRAMES = 24


def make_source(tmp_path: Path, random_start: bool, metadata: dict[str, Any] | None = None) -> ClipSource:
    """One video of 24 frames that grows brighter from frame to frame: a clip's brightness shows where it was cut."""
    levels = np.linspace(20, 230, FRAMES).astype(np.uint8)[:, None, None, None]
    video = encode_mp4(np.broadcast_to(levels, (FRAMES, 16, 16, 3)).copy(), 8)
    write_shards([VideoSample("a", video, "mp4", metadata or {"caption": "brighter"})], tmp_path / "shards", 1)
    return ClipSource(list_shards(str(tmp_path / "shards")), CLIP, LimitsSection(), random_start)


def test_a_random_start_is_a_function_of_the_draw(tmp_path: Path) -> None:
    source = make_source(tmp_path, random_start=True)
    assert torch.equal(source.tensor(0, 7), source.tensor(0, 7))
    first_frames = {round(source.tensor(0, draw)[:, 0].mean().item(), 3) for draw in range(60)}
    assert len(first_frames) > 12, "24 frames contain 21 different clips"
    assert torch.equal(source.still().tensor(0, 7), make_source(tmp_path / "again", False).tensor(0, 0))


def test_the_clip_ends_inside_the_video(tmp_path: Path) -> None:
    source = make_source(tmp_path, random_start=True)
    for draw in range(60):
        clip = source.tensor(0, draw).mean(dim=(0, 2, 3))
        assert (clip[1:] > clip[:-1]).all(), "the last frame was repeated: the clip ran past the end"


def test_a_duration_that_is_not_the_videos_costs_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its header the video of 3 seconds lasts a minute: every draw gives a clip of it all the same."""
    source, header = make_source(tmp_path, random_start=True), clips.probe
    monkeypatch.setattr(clips, "probe", lambda video, name: dataclasses.replace(header(video, name), seconds=60.0))
    starts = Counter(round(source.tensor(0, draw)[:, 0].mean().item(), 3) for draw in range(100))
    assert starts.total() == 100
    assert len(starts) > 2, "those that fit are cut where they were drawn"


def test_a_video_that_is_too_short_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path, random_start=True)
    source.clip = CLIP.model_copy(update={"frames": 40})
    with pytest.raises(VideoError) as refusal:
        source.tensor(0, 3)
    assert refusal.value.reason == "too_short"


def test_captions_are_not_needed(tmp_path: Path) -> None:
    source = make_source(tmp_path, False)
    without = make_source(tmp_path / "without", False, {"source": "no caption"})
    assert torch.equal(without.tensor(0, 0), source.tensor(0, 0))


def test_a_shard_that_has_changed_since_it_was_listed_is_damage(tmp_path: Path) -> None:
    source = make_source(tmp_path, False)
    tar = tmp_path / "shards/000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(ShardError, match=r"000000\.tar: a"):
        source.tensor(0, 0)
    tar.unlink()
    with pytest.raises(ShardError, match=r"000000\.tar: a"):
        source.tensor(0, 0)


def test_a_video_above_the_limit_is_not_read(tmp_path: Path) -> None:
    source = make_source(tmp_path, False)
    source.limits = LimitsSection(max_bytes=100)
    with pytest.raises(VideoError, match=r"000000\.tar: a: \d+ bytes.* 100"):
        source.tensor(0, 0)
