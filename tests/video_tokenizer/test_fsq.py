"""FSQ against vector-quantize-pytorch."""

import math

import pytest
import torch
from vector_quantize_pytorch import FSQ as LibraryFSQ

from hitvideo.errors import ConfigError
from hitvideo.video_tokenizer.fsq import FSQ, channel_steps


@pytest.mark.parametrize("num_bits", range(2, 40))
def test_codebook_is_exactly_two_to_the_bits(num_bits: int) -> None:
    assert math.prod(channel_steps(num_bits)) == 2**num_bits
    assert set(channel_steps(num_bits)) <= {4, 8}


@pytest.mark.parametrize("num_bits", [3, 7, 9, 10, 18])
def test_equals_library(num_bits: int) -> None:
    quantizer = FSQ(num_bits)
    generator = torch.Generator().manual_seed(num_bits)
    latents = torch.randn(3, quantizer.channels, 2, 3, 4, generator=generator) * 2
    values, indices = LibraryFSQ(channel_steps(num_bits))(latents)
    ours = quantizer(latents)
    assert torch.equal(ours.indices, indices.long())
    torch.testing.assert_close(ours.values, values, rtol=0, atol=1e-6)
    assert ours.sample_entropy == ours.batch_entropy == ours.commitment == 0


def test_gradient_equals_library() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 3, 2, 3, 4, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    FSQ(9)(ours).values.square().sum().backward()
    LibraryFSQ([8, 8, 8])(theirs)[0].square().sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("num_bits", [2, 9, 10, 18])
def test_indices_round_trip(num_bits: int) -> None:
    """Every index has its own value, and `values` of the quantised indices equals the quantised values bit for bit."""
    quantizer = FSQ(num_bits)
    indices = torch.arange(2**num_bits)[:1024].view(1, -1, 1, 1)
    values = quantizer.values(indices)
    assert values.flatten(2)[0].unique(dim=1).shape[1] == indices.numel()
    library = LibraryFSQ(channel_steps(num_bits))
    torch.testing.assert_close(values, library.indices_to_codes(indices))
    latents = torch.randn(4, quantizer.channels, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    quantized = quantizer(latents)
    assert torch.equal(quantizer.values(quantized.indices), quantized.values)


def test_bf16_is_quantised_in_fp32() -> None:
    latents = torch.randn(3, 3, 2, 3, 4, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = FSQ(9)(latents)
    assert quantized.values.dtype == torch.float32
    assert torch.equal(quantized.indices, FSQ(9)(latents.float()).indices)


def test_one_bit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_bits .*\b2, got 1\b"):
        FSQ(1)
