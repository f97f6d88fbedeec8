"""RoPE against transformers (one axis) and diffusers (three axes), and scores that depend on distances alone."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_3d_rotary_pos_embed
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from hitvideo.llm.rope import rotate, rotation


def test_one_axis_is_llamas() -> None:
    length, heads, dims = 50, 3, 16
    llama = LlamaRotaryEmbedding(LlamaConfig(hidden_size=heads * dims, num_attention_heads=heads))
    x = torch.randn(2, length, heads, dims, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(length)
    cos, sin = llama(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)  # (B, N, L, K)
    found = rotate(x, rotation(positions[:, None].float(), (dims,), 10000.0))
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=2e-6, rtol=0)


def test_three_axes_are_cogvideox_on_its_grid() -> None:
    """diffusers gives t a quarter of the head and h, w three eighths each, and repeats each angle for its pair."""
    t, h, w, dims = 3, 4, 5, 32
    cos, sin = get_3d_rotary_pos_embed(dims, ((0, 0), (h, w)), (h, w), t)
    cells = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij"), -1).reshape(-1, 3)
    turn = rotation(cells.float(), (dims // 4, dims // 8 * 3, dims // 8 * 3), 10000.0)
    torch.testing.assert_close(turn.cos, cos[:, ::2], atol=1e-6, rtol=0)
    torch.testing.assert_close(turn.sin, sin[:, ::2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("theta", [100.0, 10000.0, 1e6])
def test_each_axis_has_its_own_frequencies(theta: float) -> None:
    axes = (8, 4, 20)
    positions = torch.rand(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 200  # fractions too
    turn = rotation(positions.float(), axes, theta)
    angles = [
        get_1d_rotary_pos_embed(dims, positions[:, axis].float(), theta, use_real=True, repeat_interleave_real=False)
        for axis, dims in enumerate(axes)
    ]
    for mine, theirs in zip(turn, zip(*angles, strict=True), strict=True):
        expected = torch.cat([part.chunk(2, -1)[0] for part in theirs], -1)
        # theirs are fp32 angles up to 200 rad, off by 200 · 2^-24; ours are computed in fp64
        torch.testing.assert_close(mine, expected, atol=5e-5, rtol=0)


def test_scores_depend_on_differences_alone() -> None:
    axes, generator = (8, 12, 12), torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 1, 1, 1, 32, generator=generator)
    p, offset, shift = torch.rand(3, 1, 3, generator=generator) * 50

    def score(at_q: torch.Tensor, at_k: torch.Tensor) -> torch.Tensor:
        return (rotate(q, rotation(at_q, axes, 10000.0)) * rotate(k, rotation(at_k, axes, 10000.0))).sum()

    torch.testing.assert_close(score(p, p + offset), score(p + shift, p + offset + shift), atol=1e-4, rtol=0)
    assert (score(p, p + offset) - score(p, p + 2 * offset)).abs() > 0.1
    torch.testing.assert_close(score(p, p), (q * k).sum(), atol=1e-5, rtol=0)


def test_norms_are_kept() -> None:
    x = torch.randn(1, 9, 2, 32, generator=torch.Generator().manual_seed(3))
    turned = rotate(x, rotation(torch.rand(9, 3) * 1000, (8, 12, 12), 10000.0))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_fp32_under_bf16() -> None:
    """At position 4000 a bf16 table would be off by whole radians."""
    positions = 4000 + torch.arange(8)[:, None].float().expand(-1, 3)
    x = torch.randn(1, 8, 2, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        turn = rotation(positions, (8, 12, 12), 10000.0)
        turned = rotate(x, turn)
    assert turn.cos.dtype == turn.sin.dtype == torch.float32
    assert turned.dtype == torch.bfloat16
    exact = rotate(x.double().float(), rotation(positions.double(), (8, 12, 12), 10000.0))
    torch.testing.assert_close(turned, exact.bfloat16(), atol=0, rtol=0)


def test_the_slowest_pair_of_a_far_position() -> None:
    # Pair 1 of a 4-dimensional axis turns by 1000 · 10000^(-2/4) = 10 rad.
    turn = rotation(torch.tensor([[1000.0]]), (4,), 10000.0)
    torch.testing.assert_close(turn.cos, torch.tensor([[1000.0, 10.0]]).double().cos().float())
