"""Long videos in chunks: the results equal those of one pass, and memory does not grow with length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hitvideo.hierarchy import Hierarchy, Level
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.conv import Carry
from hitvideo.video_tokenizer.model import VideoTokenizer
from tests.conftest import ROOT

FOUR_LEVELS = tuple(Level(down=down, num_bits=9) for down in [(8, 16, 16), (8, 8, 8), (4, 8, 8), (4, 4, 4)])
NARROW = {"blocks": 1, "latent_channels": 6}
PRESETS: dict[str, tuple[Hierarchy, dict[str, Any]]] = {
    "four levels": (Hierarchy(levels=FOUR_LEVELS), {"patch": 2, "channels": (8, 12, 16)}),
    "four levels, layer norm": (Hierarchy(levels=FOUR_LEVELS), {"patch": 2, "channels": (8, 12, 16), "norm": "layer"}),
    "4x8x8": (Hierarchy(levels=(Level(down=(4, 8, 8), num_bits=9),)), {"patch": 4, "channels": (8, 12, 16)}),
    "8x8x8": (Hierarchy(levels=(Level(down=(8, 8, 8), num_bits=9),)), {"patch": 2, "channels": (8, 12, 16, 16)}),
}


def make(kind: str) -> VideoTokenizer:
    """Random weights everywhere: blocks start as the identity and would carry nothing."""
    torch.manual_seed(0)
    hierarchy, network = PRESETS[kind]
    video_tokenizer = VideoTokenizer(VideoTokenizerSection(**NARROW, **network), hierarchy).eval()
    for parameter in video_tokenizer.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return video_tokenizer


def video_of(frames: int) -> Tensor:
    return torch.rand(1, 3, frames, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("frames", [24, 37])
def test_chunks_equal_the_whole(kind: str, frames: int) -> None:
    video_tokenizer, video = make(kind), video_of(frames)
    codes = video_tokenizer.encode(video)
    for chunk in (8, 16):
        chunked = video_tokenizer.encode(video, chunk=chunk)
        assert all(torch.equal(a, b) for a, b in zip(chunked, codes, strict=True))
        torch.testing.assert_close(
            video_tokenizer.decode(codes, frames, chunk=chunk), video_tokenizer.decode(codes, frames), rtol=0, atol=1e-5
        )
    assert torch.equal(video_tokenizer.encode(video, levels=1, chunk=8)[0], codes[0])


@pytest.mark.parametrize("kind", PRESETS)
def test_latents_of_chunks_equal_the_whole(kind: str) -> None:
    video_tokenizer, video = make(kind), video_of(32)
    carry: Carry = {}
    with torch.no_grad():
        pieces = [video_tokenizer.encoder(part, carry) for part in video.split(8, dim=2)]
        torch.testing.assert_close(torch.cat(pieces, dim=2), video_tokenizer.encoder(video), rtol=0, atol=1e-5)
        carry.clear()
        cold = [video_tokenizer.encoder(part) for part in video.split(8, dim=2)]
    assert not torch.allclose(torch.cat(cold, dim=2), torch.cat(pieces, dim=2), atol=1e-2), "nothing was carried"


def test_a_stream_of_uneven_chunks() -> None:
    """37 frames in chunks of any size, as a decoder delivers them; padding adds 3 in front."""
    video_tokenizer, video = make("four levels"), video_of(37)
    pieces = list(video_tokenizer.encode_stream(video.split([1, 2, 20, 5, 9], dim=2), 37))
    codes = video_tokenizer.encode(video)
    assert all(torch.equal(torch.cat(parts, 1), whole) for parts, whole in zip(zip(*pieces, strict=True), codes, strict=True))
    decoded = torch.cat(list(video_tokenizer.decode_stream(pieces, 37)), dim=2)
    torch.testing.assert_close(decoded, video_tokenizer.decode(codes, 37), rtol=0, atol=1e-5)


def test_wrong_chunks_are_explained() -> None:
    video_tokenizer, video = make("four levels"), video_of(16)
    with pytest.raises(ValueError, match=r"chunk=4\b.*\b8 frames"):
        video_tokenizer.encode(video, chunk=4)
    with pytest.raises(ValueError, match=r"\b16 frames.*frames=24\b"):
        list(video_tokenizer.encode_stream([video], 24))


PEAK = """
import resource, sys
import torch
from tests.video_tokenizer.test_streaming import make
torch.set_num_threads(1)
video_tokenizer, frames = make("4x8x8"), int(sys.argv[1])
chunks = (torch.rand(1, 3, 16, 128, 128) for _ in range(frames // 16))
for chunk in video_tokenizer.decode_stream(video_tokenizer.encode_stream(chunks, frames), frames):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_length(tmp_path: Path) -> None:
    """Peak memory of a process that encodes and decodes a stream, for 64 and for 1,024 frames."""
    program = tmp_path / "peak.py"
    program.write_text(PEAK)
    peaks = []
    for frames in (64, 1024):
        command = [sys.executable, str(program), str(frames)]
        done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0], peaks


SHIPPED = ("paper_4level", "paper_17bit", "single_4x8x8", "single_8x8x8", "small_four_level", "tiny")


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_preset_sees_the_future(name: str) -> None:
    """If the frames after t change, all latents up to t and the frames decoded from them stay the same bit for bit.

    Uses each preset's levels, patch, steps and blocks, but narrow channels, and random weights everywhere.
    """
    run = load_settings_as(VideoTokenizerRun, ROOT / f"yaml_configs/pretrain_tokenizer/{name}.yaml")
    widths = (8,) * len(run.video_tokenizer.channels)
    section = run.video_tokenizer.model_copy(update={"channels": widths, "latent_channels": 6})
    torch.manual_seed(0)
    video_tokenizer = VideoTokenizer(section, run.hierarchy).eval()
    for parameter in video_tokenizer.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    dt, side = run.hierarchy.finest.down[0], run.hierarchy.levels[0].down[1]
    video, other = (torch.rand(1, 3, 4 * dt, side, side, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with torch.no_grad():
        latents = video_tokenizer.encoder(video)
        decoded = video_tokenizer.decoder(latents)
        for cells in (1, 2, 3):
            changed = torch.cat((video[:, :, : cells * dt], other[:, :, cells * dt :]), dim=2)
            seen = video_tokenizer.encoder(changed)
            assert torch.equal(seen[:, :, :cells], latents[:, :, :cells])
            assert not torch.equal(seen[:, :, cells:], latents[:, :, cells:])
            assert torch.equal(video_tokenizer.decoder(seen)[:, :, : cells * dt], decoded[:, :, : cells * dt])
