"""Shapes and causality of every norm, and proof that a norm over time would not be causal."""

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from hitvideo.errors import ConfigError
from hitvideo.hierarchy import Level
from hitvideo.settings.video_tokenizer import NormKind, VideoTokenizerSection
from hitvideo.video_tokenizer import conv
from hitvideo.video_tokenizer.autoencoder import Decoder, Encoder, strides
from hitvideo.video_tokenizer.conv import (
    Block,
    CausalConv3d,
    Down,
    FrameNorm,
    PositionNorm,
    Up,
    channels_last,
    depth_to_space,
    space_to_depth,
)

DOWN = (4, 4, 4)
NORMS: tuple[NormKind, ...] = get_args(NormKind)
SECTION = VideoTokenizerSection(patch=2, channels=(8, 16, 24), blocks=1, latent_channels=6)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(module: nn.Module) -> nn.Module:
    """The module with random weights everywhere. Blocks start as the identity, which could hide a leak."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return module


def untouched(module: nn.Module, inputs: Tensor, change_from: int) -> int:
    """How many leading output frames stay bit-equal when input frames from `change_from` on are replaced."""
    changed = inputs.clone()
    changed[:, :, change_from:] = noise(*changed[:, :, change_from:].shape, seed=1)
    module = awake(module)
    with torch.no_grad():
        before, after = module(inputs), module(changed)
    same = (before == after).all(dim=(0, 1, 3, 4)).tolist()
    return same.index(False) if False in same else len(same)


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2), (1, 2, 1)])
def test_down_and_up_are_exact_inverses_in_shape(stride: tuple[int, int, int]) -> None:
    features = noise(2, 8, 4, 8, 8)
    down = Down(8, 12, stride)(features)
    assert down.shape == (2, 12, 4 // stride[0], 8 // stride[1], 8 // stride[2])
    assert Up(12, 8, stride)(down).shape == features.shape


def test_space_to_depth_is_undone() -> None:
    features = noise(2, 3, 4, 6, 8)
    for stride in [(1, 2, 2), (2, 1, 2), (2, 2, 2)]:
        assert torch.equal(depth_to_space(space_to_depth(features, stride), stride), features)


def test_the_first_frame_is_repeated_in_front() -> None:
    """A still video gives the same features in every frame, including the first."""
    still = noise(1, 4, 1, 5, 5).expand(-1, -1, 6, -1, -1)
    features = CausalConv3d(4, 4, (3, 3, 3))(still)
    torch.testing.assert_close(features, features[:, :, :1].expand_as(features))


def test_a_kernel_must_cover_its_stride() -> None:
    with pytest.raises(ValueError, match=r"kernel of 1 .* stride 2"):
        CausalConv3d(4, 4, (1, 3, 3), (2, 1, 1))


def test_frame_norm_equals_group_norm_of_each_frame() -> None:
    features = noise(2, 16, 3, 4, 4)
    norm = FrameNorm(16)
    expected = torch.stack([nn.functional.group_norm(frame, conv.NORM_GROUPS) for frame in features.unbind(2)], dim=2)
    torch.testing.assert_close(norm(features), expected)


def scaled(norm: nn.Module) -> nn.Module:
    """The norm with scales and shifts that differ between channels; a new one has ones and zeros."""
    for number, parameter in enumerate(norm.parameters()):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    return norm


def by_hand(norm: nn.Module, features: Tensor) -> Tensor:
    """The norm of a position by its formula over dim 1, in fp64, with autograd's derivative."""
    features, (scale, shift) = features.double(), (parameter.double()[:, None, None, None] for parameter in norm.parameters())
    centred = features - features.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + conv.NORM_EPSILON).sqrt() * scale + shift


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_position_norm_equals_its_formula(last: bool) -> None:
    """Values, and gradients of input, scale and shift; channels innermost in memory stay so, without a copy of the input."""
    norm, features = scaled(PositionNorm(16)), noise(2, 16, 3, 4, 5)
    features = (channels_last(features) if last else features).requires_grad_()
    normed, expected = norm(features), by_hand(norm, features)
    torch.testing.assert_close(normed, expected.float())
    assert normed.is_contiguous(memory_format=torch.channels_last_3d)
    assert features.movedim(1, -1).is_contiguous() == last
    inputs, weight = [features, *norm.parameters()], noise(*features.shape, seed=1)
    found = torch.autograd.grad(normed, inputs, weight)
    wanted = torch.autograd.grad(expected, inputs, weight.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_only_the_norm_of_a_frame_sees_other_positions(kind: NormKind) -> None:
    """Replace all but one position, or cut the frame to a part: only the frame's norm gives the part another result."""
    norm, features = scaled(conv.norm_of(kind, 16)), channels_last(noise(2, 16, 3, 8, 8))
    changed = noise(*features.shape, seed=1)
    changed[:, :, 1, 2, 3] = features[:, :, 1, 2, 3]
    whole = norm(features)
    assert torch.equal(norm(changed)[:, :, 1, 2, 3], whole[:, :, 1, 2, 3]) == (kind != "frame")
    assert torch.equal(norm(features[..., :4, 2:7]), whole[..., :4, 2:7]) == (kind != "frame")


def test_a_large_frame_is_encoded_as_its_part_is() -> None:
    """With a position's norm latents depend on the pixels that convolutions reach, not on how large the frame is."""
    video = noise(1, 3, 4, 64, 64)
    encoder = awake(Encoder(SECTION.model_copy(update={"norm": "layer"}), DOWN))
    with torch.no_grad():
        whole, part = encoder(video), encoder(video[..., :48, :48])
    torch.testing.assert_close(part[..., :6, :6], whole[..., :6, :6], rtol=0, atol=1e-5)
    framed = awake(Encoder(SECTION, DOWN))
    with torch.no_grad():
        assert (framed(video)[..., :6, :6] - framed(video[..., :48, :48])[..., :6, :6]).abs().max() > 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change_from", range(1, 8))
def test_blocks_are_causal(change_from: int, norm: NormKind) -> None:
    features = noise(2, 8, 8, 6, 6)
    assert untouched(Block(8, norm=norm), features, change_from) == change_from
    assert untouched(Down(8, 8, (2, 2, 2)), features, change_from) == change_from // 2
    assert untouched(Up(8, 8, (2, 2, 2)), features, change_from) == change_from * 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change_from", [1, 4, 7, 8, 11])
def test_encoder_and_decoder_are_causal(change_from: int, norm: NormKind) -> None:
    video, section = noise(2, 3, 12, 16, 16), SECTION.model_copy(update={"norm": norm})
    assert untouched(Encoder(section, DOWN), video, change_from) == change_from // DOWN[0]
    if change_from < 3:
        assert untouched(Decoder(section, DOWN), noise(2, 6, 3, 4, 4), change_from) == change_from * DOWN[0]


def test_group_norm_over_time_would_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail: with the usual norm of 3D VAEs, the last frame leaks into the first latent."""
    monkeypatch.setattr(conv.FrameNorm, "forward", lambda self, features: self.norm(features))
    assert untouched(Encoder(SECTION, DOWN), noise(2, 3, 12, 16, 16), 11) == 0
    assert untouched(Decoder(SECTION, DOWN), noise(2, 6, 3, 4, 4), 2) == 0


def test_convolutions_keep_the_variance_at_the_start() -> None:
    torch.manual_seed(0)
    video = noise(2, 3, 12, 16, 16)
    latents = Encoder(SECTION, DOWN)(video)
    torch.testing.assert_close(latents.square().mean(dim=1), torch.ones(2, 3, 4, 4), rtol=0, atol=1e-3)
    assert 0.3 < Decoder(SECTION, DOWN)(latents).std() < 3


@pytest.mark.parametrize(
    ("down", "patch", "expected"),
    [
        ((8, 16, 16), 1, [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((4, 4, 4), 2, [(2, 2, 2), (2, 1, 1)]),
        ((4, 8, 8), 1, [(1, 2, 2), (2, 2, 2), (2, 2, 2)]),
        ((4, 4, 4), 4, [(2, 1, 1), (2, 1, 1)]),
        ((1, 4, 2), 2, [(1, 2, 1)]),
        ((1, 2, 2), 2, []),
    ],
)
def test_strides(down: tuple[int, int, int], patch: int, expected: list[tuple[int, int, int]]) -> None:
    steps = strides(Level(down=down, num_bits=1).down, patch)
    assert steps == expected
    product = [1, patch, patch]
    for step in steps:
        product = [size * factor for size, factor in zip(product, step, strict=True)]
    assert tuple(product) == down


def test_wrong_settings_are_explained() -> None:
    with pytest.raises(ConfigError, match=r"video_tokenizer\.channels .*\b2 .*patch 2\b.*\b2 .*\b3\b"):
        Encoder(SECTION.model_copy(update={"channels": (8, 16)}), DOWN)
    with pytest.raises(ConfigError, match=r"video_tokenizer\.channels .*\b4 .*\b3\b"):
        Decoder(SECTION.model_copy(update={"channels": (8, 16, 16, 16)}), DOWN)
    with pytest.raises(ConfigError, match=r"video_tokenizer\.patch 4 .*\[4, 2, 4\]"):
        strides((4, 2, 4), 4)
