"""The Python API on a video tokenizer that is not trained, and `import hitvideo`, which stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hitvideo
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tests.samples import make_token_shards, tiny_hierarchy


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hierarchy, clip = tiny_hierarchy()
    out = tmp_path_factory.mktemp("run") / "weights"
    section = VideoTokenizerSection(patch=4, channels=(8, 8, 8), latent_channels=4, blocks=1)
    save_video_tokenizer(VideoTokenizer(section, hierarchy).eval(), out, clip)
    return out


def test_one_video_goes_in_and_any_prefix_comes_out(weights: Path, tmp_path: Path) -> None:
    tokenizer = hitvideo.load_video_tokenizer(weights)
    frames = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    hitvideo.write_video(tmp_path / "noise.mp4", frames, fps=8)
    video = hitvideo.read_video(tmp_path / "noise.mp4", tokenizer.clip)
    assert video.frames.shape == (8, 32, 32, 3)
    codes = tokenizer.encode(video)
    assert [level.shape for level in codes] == [(1, 2, 2), (1, 4, 4), (2, 4, 4), (2, 8, 8)]
    for levels in (1, 4):
        decoded = tokenizer.decode(codes[:levels])
        assert decoded.frames.shape == video.frames.shape
        assert len(decoded.codes) == levels
    assert tokenizer.decode(tokenizer.encode(frames), frames=16).frames.shape == frames.shape, "any length"


def test_tokens_have_captions_and_codes(tmp_path: Path) -> None:
    tokens = hitvideo.open_tokens(make_token_shards(tmp_path))
    assert len(tokens) > 1
    assert isinstance(tokens[0].caption, str)
    assert [level.shape for level in tokens[0].codes] == [(1, 2, 2), (1, 4, 4), (2, 4, 4), (2, 8, 8)]


def test_one_error_root_catches_what_a_user_can_fix(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(hitvideo.HiTVideoError, match=r"config\.yaml"):
        hitvideo.load_run(tmp_path)
    with pytest.raises(hitvideo.HiTVideoError, match=r"no such file"):
        hitvideo.load_video_tokenizer(tmp_path)
    with pytest.raises(hitvideo.HiTVideoError, match=r"absent\.mp4"):
        hitvideo.read_video(tmp_path / "absent.mp4", hitvideo.load_video_tokenizer(weights).clip)
    with pytest.raises(hitvideo.HiTVideoError, match=r"fps="):
        hitvideo.write_video(tmp_path / "x.mp4", np.zeros((1, 2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hitvideo", {"torch", "deepspeed", "mlflow", "numpy"}),
        ("hitvideo.generation.generator", {"deepspeed", "megatron", "mlflow"}),
        ("hitvideo.checkpoints.export", {"deepspeed", "megatron", "mlflow"}),
        ("hitvideo.api", {"deepspeed", "megatron", "mlflow"}),
        ("hitvideo.runs.writer", {"torch", "deepspeed", "mlflow"}),
        ("pretrain.language_model", {"torch", "deepspeed", "mlflow"}),
        ("pretrain.video_tokenizer", {"torch", "deepspeed", "mlflow"}),
        ("hitvideo.cluster.attempt", {"torch", "deepspeed", "mlflow"}),
    ],
)
def test_what_an_import_does_not_load(module: str, absent: set[str]) -> None:
    source = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert not set(done.stdout.split()) & absent
