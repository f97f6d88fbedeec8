"""Guidance, temperature, top-k and top-p against transformers' processors."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hitvideo.errors import ConfigError
from hitvideo.generation.sampling import Sampling, guide, restrict, sample_entry

LOGITS = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("top_k", [1, 2, 7, 99, 100, 1000])
def test_top_k(top_k: int) -> None:
    torch.testing.assert_close(restrict(LOGITS, Sampling(top_k=top_k)), TopKLogitsWarper(top_k)(None, LOGITS))


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p(top_p: float) -> None:
    torch.testing.assert_close(restrict(LOGITS, Sampling(top_p=top_p)), TopPLogitsWarper(top_p)(None, LOGITS))


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
def test_temperature_then_top_k_then_top_p(temperature: float) -> None:
    expected = LOGITS
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(20), TopPLogitsWarper(0.8)):
        expected = warper(None, expected)
    torch.testing.assert_close(restrict(LOGITS, Sampling(temperature=temperature, top_k=20, top_p=0.8)), expected)


def test_top_p_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    for top_p, kept in ((0.4, 1), (0.6, 2), (0.76, 3), (0.95, 4)):  # the entry that crosses top_p stays in
        assert restrict(logits, Sampling(top_p=top_p)).isfinite().sum() == kept


def test_nothing_is_ruled_out_by_default() -> None:
    torch.testing.assert_close(restrict(LOGITS, Sampling()), LOGITS)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0, 7.5])
def test_guidance_is_transformers_formula(guidance: float) -> None:
    """transformers guides log-probabilities: g (log c - log u) + log u, the same distribution as from raw logits."""
    conditional, unconditional = LOGITS[:32], LOGITS[32:]
    c, u = conditional.log_softmax(-1), unconditional.log_softmax(-1)
    expected = (guidance * (c - u) + u).softmax(-1)
    torch.testing.assert_close(guide(conditional, unconditional, guidance).softmax(-1), expected, atol=1e-5, rtol=1e-3)


def test_guidance_of_one_and_zero() -> None:
    conditional, unconditional = LOGITS[:32], LOGITS[32:]
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(guide(conditional, unconditional, 0.0), unconditional)


def test_drawing_follows_the_chances() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = sample_entry(chances.log().expand(20000, -1), Sampling(), torch.Generator().manual_seed(1))
    found = drawn.bincount(minlength=4) / 20000
    torch.testing.assert_close(found, chances, atol=0.015, rtol=0)  # four standard errors: 4 √(0.25 / 20000)


def test_drawing_is_repeatable_and_stays_in_the_set() -> None:
    sampling = Sampling(temperature=2.0, top_k=5)
    one, same, other = (sample_entry(LOGITS, sampling, torch.Generator().manual_seed(seed)) for seed in (2, 2, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (LOGITS.topk(5).indices == one[:, None]).any(-1).all()


def test_temperature_zero_takes_the_likeliest() -> None:
    assert torch.equal(sample_entry(LOGITS, Sampling(temperature=0.0), torch.Generator()), LOGITS.argmax(-1))


NOT_FINITE = (float("nan"), float("inf"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-1.0, 1e-45, 1e39, *NOT_FINITE)), ("top-k", -1),
        *(("top-p", value) for value in (0.0, 1.5, *NOT_FINITE)), *(("guidance", value) for value in (-0.1, 1e39, *NOT_FINITE)),
    ],
)  # fmt: skip
def test_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name} is {value};")):
        Sampling(**{name.replace("-", "_"): value})  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1e3])
@pytest.mark.parametrize("top_p", [5e-324, 1e-45, 1.0])
def test_the_ends_of_the_ranges_draw(temperature: float, top_p: float) -> None:
    logits = guide(30 * LOGITS[:32], 30 * LOGITS[32:], 1000)
    drawn = sample_entry(logits, Sampling(1000, temperature, top_p=top_p), torch.Generator().manual_seed(0))
    if temperature < 1 or top_p < 1:
        assert torch.equal(drawn, logits.argmax(-1))
