"""A small job for tests: its words, its tokenizer, and its output as bytes."""

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
    """Untrained: its codes are as good as any for bookkeeping."""
    hierarchy, clip = tiny_hierarchy()
    part = config.resolve(ROOT / "yaml_configs/parts/video_tokenizer/tiny.yaml")["video_tokenizer"]
    torch.manual_seed(seed)
    section = VideoTokenizerSection(**{**part, "channels": (8, 12, 16)})
    save_video_tokenizer(VideoTokenizer(section, hierarchy).eval(), out, clip)
    return out


def words(weights: Path, videos: Path | str, out: Path, *more: str) -> list[str]:
    """The job's command line; decoding in its own process, which starts at once, and no MLflow."""
    quick = ["data.workers=0", "tracking.enabled=false", f"run.root={out.parent / 'runs'}"]
    run = str(ROOT / "yaml_configs/tokenize_shards/tiny.yaml")
    return [run, f"video_tokenizer.weights={weights}", f"data.video_shards={videos}", f"data.out={out}", *quick, *more]


def content(out: Path) -> dict[str, bytes]:
    """All files that count, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if not path.name.startswith(".")}
