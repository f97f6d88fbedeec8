"""Losses of the video tokenizer: their weights, level dropout, and that parts of a batch add up to the whole."""

import pytest
import torch

from hitvideo.settings.video_tokenizer import LossSection, VideoTokenizerSection
from hitvideo.video_tokenizer.losses import (
    code_losses,
    distances,
    entropy_weights,
    flatten,
    level_shares,
    over_batch,
    sample_prefix,
)
from hitvideo.video_tokenizer.model import VideoTokenizer
from tests.samples import tiny_hierarchy

HIERARCHY = tiny_hierarchy()[0]
SMALL = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)


def video_of(batch: int) -> torch.Tensor:
    return torch.rand(batch, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_entropy_weight_falls_linearly() -> None:
    loss = LossSection(entropy=0.1, entropy_boost=3, entropy_anneal_steps=100)
    assert [round(entropy_weights(loss, step, 2)[1], 6) for step in (0, 50, 100, 1000)] == [0.3, 0.2, 0.1, 0.1]
    assert entropy_weights(loss.model_copy(update={"entropy_anneal_steps": 0}), 0, 1) == [0.1]
    assert entropy_weights(loss.model_copy(update={"entropy": (0.1, 0.2)}), 100, 2) == [0.1, 0.2]


def test_losses_are_weighted_sums() -> None:
    torch.manual_seed(0)
    video_tokenizer = VideoTokenizer(SMALL, HIERARCHY).train()
    loss = LossSection(l1=1, l2=2, log_l2=0.5, entropy=0.1, entropy_anneal_steps=0, commitment=0.25)
    video = video_of(2)
    reconstruction = video_tokenizer(video)
    parts = distances(reconstruction.video, video, loss)
    codes = code_losses(reconstruction, loss, 0)
    each = [(reconstruction.video[b] - video[b]).square().mean() for b in range(len(video))]
    torch.testing.assert_close(parts["log_l2"], torch.stack([(mse + 2e-4).log() for mse in each]).mean())
    torch.testing.assert_close(parts["distance"], parts["l1"] + 2 * parts["l2"] + 0.5 * parts["log_l2"])
    expected = 0.1 * codes["entropy"] + 0.25 * (codes["commitment"] + codes["residual"])
    torch.testing.assert_close(codes["codes"], expected)
    torch.testing.assert_close(parts["l1"], (reconstruction.video - video).abs().mean())
    torch.testing.assert_close(parts["l2"], (reconstruction.video - video).square().mean())


def test_sample_prefix() -> None:
    assert sample_prefix(100, 4, 0.0, (0, 0)).eq(4).all()
    drawn = sample_prefix(40_000, 4, 0.5, (0, 0), unquantized=0.2)
    counts = torch.bincount(drawn, minlength=5) / 40_000
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.1, 0.1, 0.1, 0.5]), rtol=0, atol=0.01)
    assert sample_prefix(100, 4, 0.5, (0, 0), unquantized=1.0).eq(0).all()
    counts = torch.bincount(sample_prefix(40_000, 4, (0.3, 0.0, 0.2), (0, 0)), minlength=5) / 40_000
    torch.testing.assert_close(counts, torch.tensor([0, 0.3, 0, 0.2, 0.5]), rtol=0, atol=0.01)
    assert sample_prefix(40_000, 2, (0.3, 0.0, 0.2), (0, 0)).max() == 2, "a phase of fewer levels"


def test_a_clips_prefix_is_a_function_of_seed_step_and_place() -> None:
    eight, more = (sample_prefix(size, 4, 1.0, (7, 3)) for size in (8, 64))
    assert torch.equal(eight, more[:8]), "the size of the batch does not matter"
    assert not torch.equal(more, sample_prefix(64, 4, 1.0, (7, 4)))
    assert not torch.equal(sample_prefix(64, 4, 1.0, (0, 1_000_003)), sample_prefix(64, 4, 1.0, (1, 0)))


def test_shares_of_the_levels() -> None:
    """Of prefixes 0, 1, 2, 4: all keep level 0; the first passes unquantised and keeps all."""
    assert level_shares(torch.tensor([0, 1, 2, 4]), 4) == (1.0, 0.75, 0.5, 0.5)


@pytest.mark.parametrize("quantizer", ["lfq", "fsq", ("lfq", "lfq", "fsq", "fsq")])
def test_parts_of_a_batch_have_the_losses_and_gradients_of_the_whole(quantizer: str | tuple[str, ...]) -> None:
    """Batches of 1, 2 and 4 clips: each part gets the whole's code distributions and shares; the parts' mean is the whole."""
    torch.manual_seed(0)
    model = VideoTokenizer(SMALL.model_copy(update={"quantizer": quantizer}), HIERARCHY).train()
    video, prefix = video_of(4), torch.tensor([4, 1, 0, 2])
    shares = level_shares(prefix, 4)
    found = {}
    for size in (4, 2, 1):
        parts = list(zip(video.split(size), prefix.split(size), strict=True))
        tables = [model.quantize(*part, shares).tables for part in parts]
        whole = torch.stack([flatten(own) for own in tables]).mean(0).detach() if any(tables[0]) else torch.zeros(0)
        model.zero_grad()
        values = []
        for clips, kept in parts:
            part = model(clips, kept, shares)
            losses = code_losses(part, LossSection(), 0, lambda own, whole=whole: over_batch(own, lambda _: whole))
            (losses["codes"] / len(parts)).backward()
            values.append(losses["codes"].detach())
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found[size] = torch.stack(values).mean(), gradients
    for size in (2, 1):
        torch.testing.assert_close(found[size][0], found[4][0], rtol=1e-5, atol=1e-6)
        for name, gradient in found[4][1].items():
            torch.testing.assert_close(found[size][1][name], gradient, rtol=1e-4, atol=1e-6)
    alone = model(video, prefix)
    torch.testing.assert_close(code_losses(alone, LossSection(), 0)["codes"].detach(), found[4][0], rtol=1e-6, atol=1e-7)
