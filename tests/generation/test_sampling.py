"""Guidance, temperature, top-k and top-p against transformers' processors."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hitvideo.errors import ConfigError
from hitvideo.generation.logits import guide, restrict, strengths
from hitvideo.generation.noise import race
from hitvideo.generation.sampling import LevelSampling, Sampling, per_level, sampling_from

PLAIN = LevelSampling(guidance=1.0, temperature=1.0, top_k=0, top_p=1.0)
LOGITS = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("top_k", [1, 2, 7, 99, 100, 1000])
def test_top_k(top_k: int) -> None:
    torch.testing.assert_close(restrict(LOGITS, PLAIN._replace(top_k=top_k)), TopKLogitsWarper(top_k)(None, LOGITS))


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_top_p(top_p: float) -> None:
    torch.testing.assert_close(restrict(LOGITS, PLAIN._replace(top_p=top_p)), TopPLogitsWarper(top_p)(None, LOGITS))


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
def test_temperature_then_top_k_then_top_p(temperature: float) -> None:
    expected = LOGITS
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(20), TopPLogitsWarper(0.8)):
        expected = warper(None, expected)
    torch.testing.assert_close(restrict(LOGITS, PLAIN._replace(temperature=temperature, top_k=20, top_p=0.8)), expected)


def test_top_p_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    for top_p, kept in ((0.4, 1), (0.6, 2), (0.76, 3), (0.95, 4)):  # the entry that crosses top_p stays in
        assert restrict(logits, PLAIN._replace(top_p=top_p)).isfinite().sum() == kept


def test_nothing_is_ruled_out_by_default() -> None:
    torch.testing.assert_close(restrict(LOGITS, PLAIN), LOGITS)


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


@pytest.mark.parametrize("apg", [0.1, 100.0])
def test_apg_by_its_definition(apg: float) -> None:
    c, u = (part.double() - part.double().mean(-1, keepdim=True) for part in (LOGITS[:32], LOGITS[32:]))
    expected = []
    for one, other in zip(c, u, strict=True):
        change = one - other
        rms = float((change @ change / len(change)).sqrt())
        assert (rms > apg) == (apg < 1), "both cases are tried"
        change = change * min(1.0, apg / rms)
        expected.append(one + (4 - 1) * (change - one * (change @ one) / (one @ one)))
    found = guide(LOGITS[:32].double(), LOGITS[32:].double() + 7, 4.0, apg)  # a constant changes nothing
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-9, rtol=1e-9)


def test_a_list_is_for_levels_and_its_last_number_for_the_finer_ones() -> None:
    sampling = Sampling(guidance=(5.0, 2.0, 1.0), temperature=0.5, top_k=(3, 0))
    assert [sampling.at(level).guidance for level in range(5)] == [5, 2, 1, 1, 1]
    assert [sampling.at(level).top_k for level in range(3)] == [3, 0, 0]
    assert sampling.at(9).temperature == 0.5
    assert [sampling.guides(level, 4) for level in range(4)] == [True, True, False, False]
    assert Sampling(guidance=(1.0, 1.0, 2.0)).guides(0, 3)
    assert not Sampling(guidance=(1.0, 1.0, 2.0)).guides(0, 2), "of the levels that are drawn"
    assert (per_level(3.0), per_level((1.0, 2.5))) == ("3", "1,2.5")


def test_a_ramp_rises_from_1_to_the_guidance_over_the_slots() -> None:
    ramp = Sampling(guidance=5.0, guidance_ramp=True)
    torch.testing.assert_close(strengths(ramp, 0, 0, 5, 5), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    torch.testing.assert_close(strengths(ramp, 1, 2, 4, 5), torch.tensor([3.0, 4.0]))
    assert strengths(Sampling(guidance=5.0), 0, 0, 5, 5) == 5


def test_settings_go_through_json() -> None:
    for sampling in (Sampling(), Sampling(guidance=(1.0, 3.0), top_k=(0, 5), negative="dark", plan="jacobi", apg=0.5)):
        assert sampling_from(json.loads(json.dumps(sampling.as_dict()))) == sampling
    for wrong in ({"nonsense": 1}, {"guidance": "3"}, {"guidance": []}, {"guidance": [1.0] * 100}, {"temperature": True},
                  {"top_k": 1.5}, {"plan": "x"}, {"plan": ["jacobi"]}, {"negative": 3}, {"guidance_ramp": 1}):  # fmt: skip
        with pytest.raises(ConfigError):
            sampling_from(wrong)


def test_drawing_stays_in_the_set() -> None:
    noise = torch.randn(64, 100, generator=torch.Generator().manual_seed(2)) * 9
    drawn = race(restrict(LOGITS, PLAIN._replace(temperature=2.0, top_k=5)), noise)
    assert (LOGITS.topk(5).indices == drawn[:, None]).any(-1).all()
    assert not torch.equal(drawn, LOGITS.argmax(-1))


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


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("top_p", [5e-324, 1e-45, 1.0])
def test_the_ends_of_the_ranges_draw(temperature: float, top_p: float) -> None:
    logits = guide(30 * LOGITS[:32], 30 * LOGITS[32:], 1000)
    noise = torch.randn(32, 100, generator=torch.Generator().manual_seed(0))
    drawn = race(restrict(logits, PLAIN._replace(temperature=temperature, top_p=top_p)), noise)
    if temperature < 1 or top_p < 1:
        assert torch.equal(drawn, logits.argmax(-1))
