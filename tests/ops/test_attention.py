"""Attention compared with the textbook formula, forward and backward."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, current_flash_attention_impl, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hitvideo.errors import ConfigError
from hitvideo.ops.attention import Backend, attention, choose, flash_missing, ranked, usable


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


def check_mask(kv_heads: int, dtype: torch.dtype, tolerance: float, device: str) -> None:
    """Groups of four slots that see all groups before theirs, and their own: each query against only the keys it sees."""
    stage = torch.arange(16) // 4
    mask = stage[None, :] <= stage[8:, None]  # (8 queries, 16 keys)
    q, k, v = inputs(8, 16, kv_heads, dtype, device)
    found = attention(q, k, v, causal=True, backend="sdpa", mask=mask.to(device))
    found.float().sum().backward()
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    parts = [textbook(exact[0][:, i : i + 1], *(x[:, seen] for x in exact[1:]), causal=False) for i, seen in enumerate(mask)]
    expected = torch.cat(parts, 1)
    expected.sum().backward()
    torch.testing.assert_close(found.double().cpu(), expected, atol=tolerance, rtol=tolerance)
    for mine, theirs in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(mine.grad.double().cpu(), theirs.grad, atol=tolerance, rtol=tolerance)  # type: ignore[union-attr]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_mask_says_what_is_seen(kv_heads: int) -> None:
    check_mask(kv_heads, torch.float32, 1e-5, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_a_mask_on_the_gpu(kv_heads: int) -> None:
    check_mask(kv_heads, torch.bfloat16, 3e-2, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_masks_scores_are_not_kept_on_the_gpu() -> None:
    """2,048 slots of 16 heads on one: all scores in bf16 would be 134 MB."""
    q, k, v = (torch.randn(1, 2048, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (16, 1, 1))
    mask = torch.ones(2048, 2048, dtype=torch.bool, device="cuda").tril()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attention(q, k, v, causal=True, backend="sdpa", mask=mask)
    assert torch.cuda.max_memory_allocated() - before < 100e6


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that any operator has made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


@pytest.mark.parametrize(("queries", "causal"), [(64, True), (1, True)])
def test_grouped_keys_and_values_are_not_repeated(queries: int, causal: bool) -> None:
    """With 16 query heads on one key/value head: neither keys as large as the queries, nor 64² scores of a head."""
    q, k, v = (torch.randn(1, slots, heads, 8, requires_grad=True) for slots, heads in ((queries, 16), (64, 1), (64, 1)))
    with Largest() as largest:
        attention(q, k, v, causal=causal, backend="sdpa").sum().backward()
    assert largest.entries <= max(q.numel(), k.numel(), 64 * queries)


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


FA2, FA3, FA4 = "flash_attn.flash_attn_interface", "flash_attn_interface", "flash_attn.cute.interface"


@pytest.mark.parametrize(
    ("major", "modules", "cudnn", "expected"),
    [
        (9, {FA2, FA3, FA4}, True, ["FA3", "FA4", "cudnn", "flash", "sdpa"]),
        (9, {FA2}, True, ["cudnn", "flash", "sdpa"]),
        (9, {FA2}, False, ["flash", "sdpa"]),
        (9, set(), True, ["cudnn", "sdpa"]),
        (10, {FA3, FA4}, True, ["FA4", "cudnn", "sdpa"]),
        (8, {FA2, FA3, FA4}, True, ["flash", "sdpa"]),  # cuDNN's is slower than flash-attn on Ampere
        (7, {FA2, FA3, FA4}, True, ["sdpa"]),
    ],
)
def test_the_order_of_kernels(major: int, modules: set[str], cudnn: bool, expected: list[str]) -> None:
    assert list(ranked(major, modules, cudnn)) == expected


def test_full_precision_has_only_sdpa() -> None:
    assert usable("cuda", torch.float32) == usable("cpu", torch.bfloat16) == ("sdpa",)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 1])
def test_every_kernel_that_can_run_here(kv_heads: int) -> None:
    for backend in usable("cuda", torch.bfloat16):
        wish = {"sdpa": "sdpa", "flash": "flash"}.get(backend, "auto")
        found = choose(wish, "cuda", torch.bfloat16)  # type: ignore[arg-type]
        assert current_flash_attention_impl() == (found if found in ("FA3", "FA4") else None)
        check(64, 64, kv_heads, True, found, torch.bfloat16, 3e-2, "cuda")
    choose("sdpa", "cuda", torch.bfloat16)
