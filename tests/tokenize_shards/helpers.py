"""A small job for tests: its command line, its video tokenizer, and its output as bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from hitvideo import config
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tests.conftest import ROOT
from tests.samples import tiny_hierarchy

CLIPS, PER_SHARD = 14, 4


def save_tokenizer(out: Path, seed: int) -> Path:
    """Save an untrained video tokenizer; tests of the job need no meaningful codes."""
    hierarchy, clip = tiny_hierarchy()
    part = config.resolve(ROOT / "yaml_configs/parts/video_tokenizer/tiny.yaml")["video_tokenizer"]
    torch.manual_seed(seed)
    video_tokenizer = VideoTokenizerSection(**{**part, "channels": (8, 12, 16)})
    save_video_tokenizer(VideoTokenizer(video_tokenizer, hierarchy).eval(), out, clip)
    return out


def words(weights: Path, videos: Path | str, out: Path, *more: str) -> list[str]:
    """Return the job's command line, without MLflow and without decoding workers, so that it starts quickly."""
    quick = ["data.workers=0", "tracking.enabled=false", f"run.root={out.parent / 'runs'}"]
    run = str(ROOT / "yaml_configs/tokenize_shards/tiny.yaml")
    return [run, f"video_tokenizer.weights={weights}", f"data.video_shards={videos}", f"data.out={out}", *quick, *more]


def content(out: Path) -> dict[str, bytes]:
    """Return the bytes of all files except hidden ones, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".")}
