"""Where training clips are cut from their videos."""

from pathlib import Path

import numpy as np
import torch

from hitvideo.data.clips import ClipSource
from hitvideo.data.video_shards import VideoSample, list_shards, write_shards
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.encode import encode_mp4

CLIP = ClipShape(frames=4, height=16, width=16, fps=8)
FRAMES = 24


def make_source(tmp_path: Path, random_start: bool) -> ClipSource:
    """One video of 24 frames that grows brighter from frame to frame: a clip's brightness shows where it was cut."""
    levels = np.linspace(20, 230, FRAMES).astype(np.uint8)[:, None, None, None]
    video = encode_mp4(np.broadcast_to(levels, (FRAMES, 16, 16, 3)).copy(), 8)
    write_shards([VideoSample("a", video, "mp4", {"caption": "brighter"})], tmp_path / "shards", 1)
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
