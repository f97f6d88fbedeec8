"""The hierarchical quantiser: prefixes, what a code can depend on, and where gradients go."""

import pytest
import torch
from torch import Tensor

from hitvideo.hierarchy import Grid, Hierarchy, Level
from hitvideo.settings.video_tokenizer import LevelPath, QuantizerKind
from hitvideo.video_tokenizer.hierarchical_quantizer import HierarchicalQuantized, HierarchicalQuantizer
from hitvideo.video_tokenizer.quantizer import table_entropy

HIERARCHY = Hierarchy(levels=tuple(Level(down=down, num_bits=9) for down in [(8, 16, 16), (8, 8, 8), (4, 8, 8), (4, 4, 4)]))
CHANNELS = 6
LFQ: list[QuantizerKind] = ["lfq"] * 4
FSQ: list[QuantizerKind] = ["fsq"] * 4
MIXED: list[QuantizerKind] = ["lfq", "lfq", "fsq", "fsq"]
FINEST = Grid(4, 8, 8)  # two coarsest cells in time


def latents_of(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, CHANNELS, *FINEST, generator=torch.Generator().manual_seed(seed))


def entropies(quantized: HierarchicalQuantized) -> list[float]:
    """Each level's per-sample minus batch entropy."""
    pairs = zip(quantized.sample_entropy, quantized.tables, strict=True)
    return [(each_cell - table_entropy(tables)).item() for each_cell, tables in pairs]


@pytest.fixture(params=[(LFQ, "cells"), (FSQ, "cells"), (MIXED, "block"), (FSQ, "mean")], ids=str)
def quantizer(request: pytest.FixtureRequest) -> HierarchicalQuantizer:
    torch.manual_seed(0)
    made = HierarchicalQuantizer(HIERARCHY, request.param[0], CHANNELS, request.param[1])
    for name, parameter in made.named_parameters():  # a refinement starts at zero
        torch.nn.init.normal_(parameter, std=0.1) if "refine" in name else None
    return made


@pytest.mark.parametrize(("path", "moves"), [("cells", True), ("block", True), ("mean", False)])
def test_what_a_coarse_code_says_of_its_frames(path: LevelPath, moves: bool) -> None:
    """Level 0's cell covers two finest frames. Only a mean over them says the same for both, and sees no change."""
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(HIERARCHY, LFQ, CHANNELS, path)
    codes = quantizer.encode(latents_of(), 1)
    first, second = quantizer.decode(codes, FINEST)[:, :, :2].unbind(2)
    assert torch.equal(first, second) != moves
    backwards = latents_of().unflatten(2, (2, 2)).flip(3).flatten(2, 3)  # the frames of each cell change places
    assert torch.equal(quantizer.encode(backwards, 1)[0], codes[0]) != moves


def test_grids_of_the_codes(quantizer: HierarchicalQuantizer) -> None:
    codes = quantizer.encode(latents_of())
    assert [tuple(indices.shape[1:]) for indices in codes] == [(2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 8, 8)]
    assert all(indices.dtype == torch.int64 and indices.min() >= 0 and indices.max() < 512 for indices in codes)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_a_prefix_of_levels(quantizer: HierarchicalQuantizer, levels: int) -> None:
    """Encoding k levels gives the first k of all codes; decoding them equals the forward pass that keeps k, bit for bit."""
    latents = latents_of()
    codes = quantizer.encode(latents)
    assert all(torch.equal(a, b) for a, b in zip(quantizer.encode(latents, levels), codes[:levels], strict=True))
    forward = quantizer(latents, torch.full((4,), levels))
    assert torch.equal(forward.latents, quantizer.decode(codes[:levels], FINEST))
    assert all(torch.equal(a, b) for a, b in zip(forward.codes[:levels], codes, strict=False))


def test_clips_of_a_batch_keep_their_own_prefix(quantizer: HierarchicalQuantizer) -> None:
    latents, prefix = latents_of(), torch.tensor([1, 2, 3, 4])
    mixed = quantizer(latents, prefix)
    for clip, levels in enumerate(prefix.tolist()):
        alone = quantizer(latents, torch.full((4,), levels))
        assert torch.equal(mixed.latents[clip], alone.latents[clip])
    assert torch.equal(quantizer(latents, None).latents, quantizer(latents, torch.full((4,), 4)).latents)


def test_prefix_zero_passes_unquantised() -> None:
    """The clip's latents pass unchanged, and its levels learn as if it kept them all."""
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(HIERARCHY, LFQ, CHANNELS)
    latents = latents_of()
    passed, kept = quantizer(latents, torch.tensor([0, 4, 0, 2])), quantizer(latents, torch.tensor([4, 4, 4, 2]))
    assert torch.equal(passed.latents[::2], latents[::2])
    assert torch.equal(passed.latents[1::2], kept.latents[1::2])
    assert torch.equal(passed.residual, kept.residual)
    assert entropies(passed) == entropies(kept)


def test_residual_is_what_the_levels_leave_over() -> None:
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(HIERARCHY, LFQ, CHANNELS)
    latents = latents_of().requires_grad_()
    quantized = quantizer(latents)
    left_over = (latents - quantized.latents).square().mean()
    torch.testing.assert_close(quantized.residual, 1.25 * left_over)
    quantized.residual.backward()
    # The latents get the gradient toward a fixed sum. Of the codes, only project_out gets one, not project_in.
    torch.testing.assert_close(latents.grad, 0.5 * (latents - quantized.latents).detach() / latents.numel())
    for level in quantizer.levels:
        assert level.project_in.weight.grad is None
        assert level.project_out.weight.grad.abs().sum() > 0


def test_losses_of_dropped_levels_do_not_count() -> None:
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(HIERARCHY, LFQ, CHANNELS)
    latents = latents_of()
    mixed = quantizer(latents, torch.tensor([1, 4, 1, 4]))
    kept = quantizer(latents[1::2], None)
    assert entropies(mixed)[1:] == pytest.approx(entropies(kept)[1:], rel=1e-5)
    torch.testing.assert_close(mixed.commitment[1:], kept.commitment[1:])
    none = quantizer(latents, torch.ones(4, dtype=torch.int64))
    assert all(loss == 0 for loss in (*entropies(none)[1:], *none.commitment[1:]))
    assert none.commitment[0] > 0


def test_a_code_sees_no_frame_after_the_coarsest_cell_around_it(quantizer: HierarchicalQuantizer) -> None:
    """Interpolation in time is nearest. Finer codes depend on the coarse ones, so they see to the end of the coarsest cell."""
    latents = latents_of()
    changed = latents.clone()
    changed[:, :, 2:] = latents_of(seed=1)[:, :, 2:]  # the second coarsest cell
    for before, after in zip(quantizer.encode(latents), quantizer.encode(changed), strict=True):
        half = before.shape[1] // 2
        assert torch.equal(before[:, :half], after[:, :half])
        assert not torch.equal(before[:, half:], after[:, half:])
    before, after = quantizer(latents).latents, quantizer(changed).latents
    assert torch.equal(before[:, :, :2], after[:, :, :2])


def test_every_level_is_straight_through_to_the_latents() -> None:
    """Every level contributes to the gradient of the sum; none is cancelled through the residual."""
    torch.manual_seed(0)
    quantizer = HierarchicalQuantizer(HIERARCHY, LFQ, CHANNELS)
    latents = latents_of().requires_grad_()
    quantizer(latents).latents.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    for level in quantizer.levels:
        for name, parameter in level.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_autocast_does_not_change_codes(quantizer: HierarchicalQuantizer) -> None:
    latents = latents_of()
    expected = quantizer.encode(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(quantizer.encode(latents), expected, strict=True))
        assert quantizer(latents).latents.dtype == torch.float32


def test_wrong_codes_are_explained(quantizer: HierarchicalQuantizer) -> None:
    codes = quantizer.encode(latents_of())
    with pytest.raises(ValueError, match=r"level 1 .*\[2, 4, 4\].*\[2, 2, 2\]"):
        quantizer.decode([codes[0], codes[0]], FINEST)
    with pytest.raises(ValueError, match="1 to 4 levels, got 0"):
        quantizer.decode([], FINEST)
