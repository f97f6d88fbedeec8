"""A run's own clip decides how long its videos are and how fast they play, not the one that its video tokenizer saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hitvideo import config
from hitvideo.data.manifest import write_manifest
from hitvideo.generation.generator import load_generator
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.model import LanguageModel
from hitvideo.runs.writer import RunWriter
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer, weights_fingerprint
from tests.conftest import ROOT
from tests.samples import make_token_shards, tiny_hierarchy


@pytest.mark.parametrize(
    ("frames", "height", "width", "fps"), [(1, 32, 32, 8), (16, 32, 32, 4), (8, 16, 48, 8), (5, 32, 32, 6)]
)
def test_the_video_has_the_shape_of_the_runs_bucket(
    frames: int, height: int, width: int, fps: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hierarchy, clip = tiny_hierarchy()
    part = config.resolve(ROOT / "yaml_configs/parts/video_tokenizer/tiny.yaml")["video_tokenizer"]
    video_tokenizer = VideoTokenizer(VideoTokenizerSection(**{**part, "channels": (8, 12, 16), "blocks": 1}), hierarchy)
    save_video_tokenizer(video_tokenizer, tmp_path / "tokenizer", clip)
    manifest = json.loads(make_token_shards(tmp_path / "tokens", shards=1, per_shard=4).read_text())
    receipts = manifest.pop("shards")
    manifest["video_tokenizer"] = {"fingerprint": weights_fingerprint(tmp_path / "tokenizer"), "weights": "tokenizer"}
    write_manifest(tmp_path / "tokens", receipts, manifest)
    shape = [f"clip.frames={frames}", f"clip.height={height}", f"clip.width={width}", f"clip.fps={fps}"]
    words = ["llm.layers=1", "run.root=runs", "run.name=r", "data.manifest=tokens/manifest.json", *shape]
    settings = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml", words)
    run = RunWriter(settings, writer=True)
    TextTokenizer.train(["a red circle", "a blue square"], 300).save(run.text_tokenizer_file)
    run.weights.mkdir()
    save_file(LanguageModel(settings.llm, make_layout(settings)).state_dict(), run.model_file)
    generator = load_generator(run.path, torch.device("cpu"), tmp_path / "tokenizer")
    videos = generator.decode(generator.codes(["a red circle"], Sampling(guidance=1.0), levels=1))
    assert [video.shape for video in videos] == [(frames, height, width, 3)]
    assert generator.clip.fps == fps
