"""LFQ against vector-quantize-pytorch, and against brute force for cases where the library is too slow or clamps."""

import pytest
import torch
from torch import Tensor
from vector_quantize_pytorch import LFQ as LibraryLFQ

from hitvideo.video_tokenizer.lfq import LFQ, LIBRARY_INV_TEMPERATURE, indices_to_signs, signs_to_indices

GRID = (2, 3, 4)


def latents_of(num_bits: int, scale: float, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_bits, *GRID, generator=generator) * scale


# At scale 1 every bit is certain and the entropies are near zero; at 0.003 they are not.
@pytest.mark.parametrize(("scale", "inv_temperature"), [(1.0, 100.0), (0.05, 100.0), (0.003, 100.0), (1.0, 2.0)])
@pytest.mark.parametrize("num_bits", [1, 6, 9])
def test_equals_library(num_bits: int, scale: float, inv_temperature: float) -> None:
    latents = latents_of(num_bits, scale)
    library = LibraryLFQ(dim=num_bits, commitment_loss_weight=0.25)
    (values, indices, _), losses = library(latents, return_loss_breakdown=True, inv_temperature=inv_temperature)
    ours = LFQ(num_bits, inv_temperature)(latents)
    torch.testing.assert_close(ours.values, values, rtol=0, atol=1e-6)
    assert torch.equal(ours.indices, indices.long())
    torch.testing.assert_close(ours.commitment, losses.commitment)
    torch.testing.assert_close(ours.batch_entropy, losses.batch_entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.sample_entropy, losses.per_sample_entropy, rtol=1e-3, atol=1e-3)


def test_entropies_of_12_bits_equal_library() -> None:
    """With two groups, per-sample entropy stays exact, and batch entropy is the sum over both groups of six bits."""
    latents = latents_of(12, 0.003)
    _, losses = LibraryLFQ(dim=12)(latents, return_loss_breakdown=True)
    ours = LFQ(12)(latents)
    torch.testing.assert_close(ours.sample_entropy, losses.per_sample_entropy, rtol=2e-3, atol=1e-3)
    groups = [LFQ(6)(half).batch_entropy for half in latents.chunk(2, dim=1)]
    torch.testing.assert_close(ours.batch_entropy, groups[0] + groups[1])
    assert ours.batch_entropy >= losses.batch_entropy  # a joint entropy is at most the sum of its parts


def test_sample_entropy_of_18_bits_equals_brute_force() -> None:
    """Brute force sums over all 2**18 codes in double precision, without the library's clamp."""
    latents = latents_of(18, 0.003, batch=1)[..., :1, :2]
    positions = latents.movedim(1, -1).reshape(-1, 18).double()
    codebook = indices_to_signs(torch.arange(2**18).view(-1, 1, 1, 1), 18).reshape(-1, 18).double()
    log_p = (2 * LIBRARY_INV_TEMPERATURE * positions @ codebook.T).log_softmax(dim=1)
    brute = -(log_p.exp() * log_p).sum(dim=1).mean()
    torch.testing.assert_close(LFQ(18)(latents).sample_entropy.double(), brute, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_bits", [1, 7, 9, 18, 31, 62])
def test_indices_round_trip(num_bits: int) -> None:
    generator = torch.Generator().manual_seed(num_bits)
    indices = torch.randint(0, 2**num_bits, (50, *GRID), generator=generator)
    indices[0, 0, 0, 0], indices[0, 0, 0, 1] = 0, 2**num_bits - 1
    signs = indices_to_signs(indices, num_bits)
    assert signs.abs().eq(1).all()
    assert torch.equal(signs_to_indices(signs), indices)
    quantized = LFQ(num_bits).eval()(signs * 0.3)
    assert torch.equal(quantized.indices, indices)
    assert torch.equal(quantized.values, signs)


def test_most_significant_bit_first_and_sign_of_zero() -> None:
    latents = torch.tensor([1.0, -1.0, 0.0, 2.0]).view(1, 4, 1, 1, 1)
    quantized = LFQ(4)(latents)
    assert quantized.indices.item() == 0b1001
    assert quantized.values.flatten().tolist() == [1, -1, -1, 1]


def test_straight_through_gradient() -> None:
    latents = latents_of(6, 1.0).requires_grad_()
    upstream = latents_of(6, 1.0, seed=1)
    (LFQ(6)(latents).values * upstream).sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, upstream)


def test_entropy_gradient_equals_library() -> None:
    ours, theirs = latents_of(6, 0.01).requires_grad_(), latents_of(6, 0.01).requires_grad_()
    quantized = LFQ(6)(ours)
    (quantized.sample_entropy - quantized.batch_entropy).backward()
    _, losses = LibraryLFQ(dim=6)(theirs, return_loss_breakdown=True)
    (losses.per_sample_entropy - losses.batch_entropy).backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=5e-3, atol=2e-4)


def test_bf16_is_quantised_in_fp32() -> None:
    latents = latents_of(9, 0.05).bfloat16()
    expected = LFQ(9)(latents.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = LFQ(9)(latents)
    for name in ("values", "sample_entropy", "batch_entropy", "commitment"):
        assert getattr(quantized, name).dtype == torch.float32
        assert torch.equal(getattr(quantized, name), getattr(expected, name)), name
    assert torch.equal(quantized.indices, expected.indices)


def test_clips_that_are_not_kept_do_not_count() -> None:
    latents = latents_of(9, 0.01, batch=4)
    keep = torch.tensor([1, 0, 1, 0])
    masked, alone = LFQ(9)(latents, keep), LFQ(9)(latents[::2])
    for name in ("sample_entropy", "batch_entropy", "commitment"):
        torch.testing.assert_close(getattr(masked, name), getattr(alone, name))
        assert getattr(LFQ(9)(latents, torch.zeros(4)), name) == 0


def test_no_losses_in_eval() -> None:
    quantized = LFQ(9).eval()(latents_of(9, 0.01))
    assert quantized.sample_entropy == quantized.batch_entropy == quantized.commitment == 0
