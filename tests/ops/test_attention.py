"""Attention compared with the textbook formula, forward and backward."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hitvideo.errors import ConfigError
from hitvideo.ops.attention import Backend, attention, choose, flash_missing


def textbook(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """softmax(q kᵀ / √K) v, one head and one query at a time; query head n reads key head n // groups."""
    out = torch.zeros_like(q)
    groups = q.shape[2] // k.shape[2]
    for batch in range(q.shape[0]):
        for head in range(q.shape[2]):
            for slot in range(q.shape[1]):
                seen = k.shape[1] - q.shape[1] + slot + 1 if causal else k.shape[1]
                keys, values = k[batch, :seen, head // groups], v[batch, :seen, head // groups]
                weights = (keys @ q[batch, slot, head] / q.shape[3] ** 0.5).exp()
                out[batch, slot, head] = (weights[:, None] * values).sum(0) / weights.sum()
    return out


def inputs(queries: int, keys: int, kv_heads: int, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, queries, 4, 8), (2, keys, kv_heads, 8), (2, keys, kv_heads, 8)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [x.to(device, dtype).requires_grad_() for x in drawn]


def check(
    queries: int, keys: int, kv_heads: int, causal: bool, backend: Backend, dtype: torch.dtype, tolerance: float, device: str
) -> None:
    q, k, v = inputs(queries, keys, kv_heads, dtype, device)
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    found, expected = attention(q, k, v, causal=causal, backend=backend), textbook(*exact, causal)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double().cpu(), expected, atol=tolerance, rtol=tolerance)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weight.to(found)).sum().backward()
    (expected * weight).sum().backward()
    for mine, theirs in zip((q, k, v), exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double().cpu(), theirs.grad, atol=tolerance, rtol=tolerance)


CASES = [(9, 9, True), (9, 9, False), (1, 9, False), (1, 1, True), (1, 9, True), (4, 9, True)]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("queries", "keys", "causal"), CASES)
def test_sdpa(queries: int, keys: int, kv_heads: int, causal: bool) -> None:
    check(queries, keys, kv_heads, causal, "sdpa", torch.float64, 1e-10, "cpu")
    check(queries, keys, kv_heads, causal, "sdpa", torch.float32, 1e-5, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(("queries", "keys", "causal"), CASES)
def test_flash(queries: int, keys: int, kv_heads: int, causal: bool) -> None:
    check(queries, keys, kv_heads, causal, "flash", torch.bfloat16, 3e-2, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_sdpa_on_the_gpu(kv_heads: int) -> None:
    check(9, 9, kv_heads, True, "sdpa", torch.bfloat16, 3e-2, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"])
def test_every_kernel_of_sdpa_on_the_gpu(kernel: str) -> None:
    with sdpa_kernel(getattr(SDPBackend, kernel)):
        check(64, 64, 4, True, "sdpa", torch.bfloat16, 3e-2, "cuda")


def test_causal_needs_a_key_for_every_query() -> None:
    with pytest.raises(AssertionError, match="causal"):
        attention(*inputs(9, 4, 4, torch.float32), causal=True, backend="sdpa")


def test_choose_on_the_cpu() -> None:
    assert choose("auto", "cpu", torch.bfloat16) == "sdpa"
    assert choose("sdpa", "cpu", torch.float32) == "sdpa"
    with pytest.raises(ConfigError, match=r"llm\.attention .*'flash'.*CUDA.*llm\.attention=auto"):
        choose("flash", "cpu", torch.bfloat16)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_the_error_names_the_command_that_installs_flash_attn() -> None:
    """Needs no device, because only its name is used."""
    with pytest.raises(ConfigError, match=r"flash-attn .*pip install --no-build-isolation"):
        choose("flash", "cuda", torch.bfloat16)
    assert choose("auto", "cuda", torch.bfloat16) == "sdpa"
    assert "pip install" in str(flash_missing(torch.device("cuda", 1), torch.bfloat16))
