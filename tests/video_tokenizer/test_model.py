"""The video tokenizer as a whole: any number of frames, any prefix of levels, files, sizes of the presets, losses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hitvideo import config
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.metrics.code_use import code_use
from hitvideo.settings.video_tokenizer import LossSection, VideoTokenizerSection
from hitvideo.video_tokenizer.autoencoder import Recompute
from hitvideo.video_tokenizer.conv import Block
from hitvideo.video_tokenizer.losses import code_losses, distances
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_video_tokenizer,
    save_video_tokenizer,
    weights_fingerprint,
)
from tests.conftest import ROOT
from tests.samples import whole_loss

PARTS = ROOT / "yaml_configs" / "parts"
TINY = config.resolve(PARTS / "hierarchy" / "tiny.yaml")
HIERARCHY = config.build(Hierarchy, TINY["hierarchy"], "tiny.yaml")
CLIP = config.build(ClipShape, TINY["clip"], "tiny.yaml")
SMALL = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)


def video_of(frames: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def make(section: VideoTokenizerSection) -> VideoTokenizer:
    """Random weights in all blocks, which start as the identity, so that every path matters."""
    torch.manual_seed(0)
    video_tokenizer = VideoTokenizer(section, HIERARCHY)
    for module in video_tokenizer.modules():
        if isinstance(module, Block):
            torch.nn.init.normal_(module.time.conv.weight, std=0.1)
    return video_tokenizer


@pytest.fixture
def video_tokenizer() -> VideoTokenizer:
    return make(SMALL).eval()


@pytest.mark.parametrize("frames", [1, 5, 8, 17])
def test_any_number_of_frames(video_tokenizer: VideoTokenizer, frames: int) -> None:
    video = video_of(frames)
    codes = video_tokenizer.encode(video)
    grids = HIERARCHY.grids(CLIP.model_copy(update={"frames": frames}).extent)
    assert [tuple(indices.shape) for indices in codes] == [(2, *grid) for grid in grids]
    decoded = video_tokenizer.decode(codes, frames)
    assert decoded.shape == video.shape
    assert decoded.abs().max() <= 1
    with torch.no_grad():
        assert torch.equal(video_tokenizer(video).video.clamp(-1, 1), decoded)


@pytest.mark.parametrize("quantizer", ["lfq", "fsq", ("lfq", "lfq", "fsq", "fsq")])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_every_prefix_decodes_as_in_training(quantizer: str | tuple[str, ...], levels: int) -> None:
    video_tokenizer = make(SMALL.model_copy(update={"quantizer": quantizer}))
    video = video_of(8)
    codes = video_tokenizer.encode(video)
    assert all(torch.equal(a, b) for a, b in zip(video_tokenizer.encode(video, levels), codes[:levels], strict=True))
    with torch.no_grad():
        reconstruction = video_tokenizer(video, torch.full((2,), levels))
    assert torch.equal(reconstruction.video.clamp(-1, 1), video_tokenizer.decode(codes[:levels], 8))


def test_prefixes_are_decoded_in_order(video_tokenizer: VideoTokenizer) -> None:
    codes = video_tokenizer.encode(video_of(5))
    prefixes = list(video_tokenizer.decode_prefixes(codes, 5))
    assert len(prefixes) == len(codes) == 4
    assert not any(video.requires_grad for video in prefixes)
    for levels, video in enumerate(prefixes, start=1):
        assert torch.equal(video, video_tokenizer.decode(codes[:levels], 5))
    assert len(list(video_tokenizer.decode_prefixes(codes[:2], 5))) == 2


def test_codes_and_video_do_not_depend_on_later_cells(video_tokenizer: VideoTokenizer) -> None:
    """Two clips that share their first 8 frames, one coarsest cell, share its codes and decoded frames."""
    video, changed = video_of(24), video_of(24)
    changed[:, :, 8:] = video_of(16, seed=1)
    before, after = video_tokenizer.encode(video), video_tokenizer.encode(changed)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, : a.shape[1] // 3], b[:, : b.shape[1] // 3])
        assert not torch.equal(a, b)
    assert torch.equal(video_tokenizer.decode(before, 24)[:, :, :8], video_tokenizer.decode(after, 24)[:, :, :8])


def test_gradients_reach_every_weight(video_tokenizer: VideoTokenizer) -> None:
    video_tokenizer.train()
    video = video_of(8)
    whole_loss(video_tokenizer(video, torch.tensor([4, 2])), video).backward()
    for name, parameter in video_tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_bf16_autocast_trains(video_tokenizer: VideoTokenizer) -> None:
    video_tokenizer.train()
    video = video_of(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reconstruction = video_tokenizer(video)
        losses = distances(reconstruction.video.float(), video, LossSection())
        losses |= code_losses(reconstruction, LossSection(), 0)
    (losses["distance"] + losses["codes"]).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_bf16_weights_encode_and_decode(video_tokenizer: VideoTokenizer) -> None:
    video = video_of(8)
    half = video_tokenizer.bfloat16()
    assert half.decode(half.encode(video), 8).shape == video.shape


def test_wrong_input_is_explained(video_tokenizer: VideoTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"height 24\b.*\b16\b"):
        video_tokenizer.encode(video_of(8)[:, :, :, :24])
    with pytest.raises(ValueError, match=r"\[2, 8, 32, 32\]"):
        video_tokenizer.encode(video_of(8)[:, 0])
    codes = video_tokenizer.encode(video_of(8))
    with pytest.raises(ValueError, match=r"frames=9\b.*\b1 to 8\b"):
        video_tokenizer.decode(codes, 9)


def test_saved_and_loaded(video_tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    save_video_tokenizer(video_tokenizer, tmp_path / "a", CLIP)
    loaded, clip = load_video_tokenizer(tmp_path / "a")
    assert clip == CLIP
    assert loaded.section == SMALL
    assert loaded.hierarchy == HIERARCHY
    video = video_of(8)
    assert all(torch.equal(a, b) for a, b in zip(loaded.encode(video), video_tokenizer.encode(video), strict=True))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_fingerprint_is_of_weights_and_settings(video_tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_video_tokenizer(video_tokenizer, tmp_path / name, CLIP)
    first = weights_fingerprint(tmp_path / "a")
    assert len(first) == 16
    assert weights_fingerprint(tmp_path / "b") == first
    save_video_tokenizer(video_tokenizer, tmp_path / "b", CLIP.model_copy(update={"fps": 4}))
    assert weights_fingerprint(tmp_path / "b") != first
    with torch.no_grad():
        next(video_tokenizer.parameters()).add_(1)
    save_video_tokenizer(video_tokenizer, tmp_path / "a", CLIP)
    assert weights_fingerprint(tmp_path / "a") != first


def test_bad_files_are_explained(video_tokenizer: VideoTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"video_tokenizer\.yaml: no such file.*`weights`"):
        load_video_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"weights\.safetensors: "):
        weights_fingerprint(tmp_path)
    save_video_tokenizer(video_tokenizer, tmp_path, CLIP)
    weights, settings = tmp_path / WEIGHTS_FILE, tmp_path / CONFIG_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"weights\.safetensors: .*damaged"):
        load_video_tokenizer(tmp_path)
    weights.write_bytes(whole)
    save_file(load_file(weights), weights)
    with pytest.raises(ConfigError, match=r"weights\.safetensors: not a video tokenizer"):
        load_video_tokenizer(tmp_path)
    weights.write_bytes(whole)
    settings.write_text(settings.read_text().replace("fps: 8.0", "fps: 4.0"))
    with pytest.raises(ConfigError, match=r"weights\.safetensors: .*video_tokenizer\.yaml"):
        load_video_tokenizer(tmp_path)
    settings.write_text("clip: 1\n")
    with pytest.raises(ConfigError, match="hierarchy"):
        load_video_tokenizer(tmp_path)


def test_code_use() -> None:
    codes = [torch.tensor([0b00, 0b01, 0b01, 0b11]).view(2, 1, 1, 2), torch.full((2, 2, 1, 1), 0b100)]
    found = {name: value.item() for name, value in code_use(codes, [2, 3]).items()}
    assert found == {"used_level_0": 3, "balance_level_0": 0.25, "used_level_1": 1, "balance_level_1": 0}


@pytest.mark.parametrize("recompute", ["selective", "block"])
def test_recomputing_changes_no_gradient(recompute: Recompute) -> None:
    video, found = video_of(8), []
    for kind in ("none", recompute):
        torch.manual_seed(0)
        model = VideoTokenizer(SMALL, HIERARCHY, kind).train()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)  # blocks start as the identity
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = whole_loss(model(video), video)
        loss.backward()
        found.append(({name: p.grad for name, p in model.named_parameters()}, kept))
    (plain, all_kept), (again, some_kept) = found
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert some_kept < all_kept


def test_a_decoder_alone_keeps_nothing_of_the_encoder(video_tokenizer: VideoTokenizer) -> None:
    video, prefix = video_of(8), torch.tensor([4, 2])
    video_tokenizer.train()
    whole, alone = video_tokenizer(video, prefix), video_tokenizer(video, prefix, decoder_only=True)
    assert torch.equal(whole.video, alone.video)
    alone.video.square().mean().backward()
    for name, parameter in video_tokenizer.named_parameters():
        assert (parameter.grad is not None) == name.startswith("decoder"), name


def test_tiny_preset_has_its_size() -> None:
    """A golden number: a change to it makes saved weights unreadable."""
    section = config.build(
        VideoTokenizerSection, config.resolve(PARTS / "video_tokenizer" / "tiny.yaml")["video_tokenizer"], "tiny.yaml"
    )
    video_tokenizer = VideoTokenizer(section, HIERARCHY)
    assert sum(parameter.numel() for parameter in video_tokenizer.parameters()) == 639_711
    assert [indices.shape[1:].numel() for indices in video_tokenizer.encode(video_of(8))] == [4, 16, 32, 128]


def test_paper_preset_has_the_paper_s_grids() -> None:
    """64×256×256 through a full-size network on the meta device, which computes shapes and uses no memory."""
    paper = config.resolve(PARTS / "hierarchy" / "paper_4level.yaml")
    section = VideoTokenizerSection(channels=(64, 128, 256, 256, 512), blocks=2, latent_channels=32)
    with torch.device("meta"):
        video_tokenizer = VideoTokenizer(section, config.build(Hierarchy, paper["hierarchy"], "paper_4level.yaml"))
        codes = video_tokenizer.encode(torch.empty(1, 3, 64, 256, 256))
        assert [tuple(indices.shape[1:]) for indices in codes] == [(1, 8, 8), (2, 8, 8), (4, 16, 16), (8, 16, 16)]
        assert video_tokenizer.decode(codes, 64).shape == (1, 3, 64, 256, 256)
