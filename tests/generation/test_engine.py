"""Generation: the storyboard is the beginning of the video, seeds repeat, guidance does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation.engine import Listener, Request, draw, generate_codes
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.cache import KVCache
from hitvideo.llm.model import LanguageModel
from tests.generation.models import PROMPTS, TEXT, random_model


@pytest.fixture(scope="module", params=["one sub-code", "two sub-codes"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return random_model(sub_bits=((6,),) * 4 if request.param == "one sub-code" else ((3, 3),) * 4)


def test_storyboard_is_the_first_level_of_the_whole_video(model: LanguageModel) -> None:
    whole = generate_codes(model, TEXT, PROMPTS, Sampling(guidance=3), seed=5)
    for levels in (1, 2):
        part = generate_codes(model, TEXT, PROMPTS, Sampling(guidance=3), levels=levels, seed=5)
        assert len(part) == levels
        assert all(np.array_equal(a, b) for a, b in zip(part, whole, strict=False))
    assert [codes.shape[1:] for codes in whole] == [tuple(grid) for grid in model.layout.grids]


def test_a_seed_repeats_and_another_differs(model: LanguageModel) -> None:
    one, again, other = (generate_codes(model, TEXT, PROMPTS, Sampling(), seed=seed)[-1] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_guidance_1_is_the_conditional_model_and_0_forgets_the_prompt(model: LanguageModel) -> None:
    greedy = {"temperature": 0.0}
    conditional = generate_codes(model, TEXT, PROMPTS, Sampling(guidance=1, **greedy))
    nearly = generate_codes(model, TEXT, PROMPTS, Sampling(guidance=1 + 1e-6, **greedy))  # takes the path of two rows
    assert all(np.array_equal(a, b) for a, b in zip(conditional, nearly, strict=True))
    without = generate_codes(model, TEXT, PROMPTS, Sampling(guidance=0, **greedy))
    assert all(np.array_equal(codes[0], codes[n]) for codes in without for n in (1, 2))


def test_greedy_codes_are_what_the_uncached_model_finds_likeliest(model: LanguageModel) -> None:
    """The independent path: no cache, the whole row at once, argmax at every slot given the generated ones before."""
    codes = generate_codes(model, TEXT, PROMPTS[:1], Sampling(guidance=1, temperature=0.0))
    layout = model.layout
    row = torch.from_numpy(layout.join(TEXT.encode(PROMPTS[0]), [indices[0] for indices in codes]))[None]
    hidden = model.hidden(row[:, :-1])
    for level, (start, stop) in enumerate(zip(layout.starts, layout.starts[1:], strict=False)):
        sub_codes = model.layout.vocab.sub_codes(level, row[:, start:stop])[0]
        for slot in range(start, stop):
            logits = model.heads[level].logits(hidden[:, slot - 1], sub_codes[None, slot - start, :0])
            assert logits.argmax().item() == sub_codes[slot - start, 0].item(), (level, slot)


def test_levels_out_of_range_are_refused(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="the run has 4 levels, ask for 1 to 4"):
        generate_codes(model, TEXT, PROMPTS, Sampling(), levels=5)


def rows(
    model: LanguageModel, sampling: Sampling, requests: list[Request], levels: int | None = None
) -> list[list[np.ndarray]]:
    """The codes of each request, from one batch."""
    found = draw(model, TEXT, requests, sampling, levels).codes
    return [[level[number] for level in found] for number in range(len(requests))]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("plan", ["sequential", "jacobi"])
def test_a_video_does_not_depend_on_its_batch(model: LanguageModel, plan: str) -> None:
    sampling = Sampling(temperature=1.0, plan=plan, negative="a dark thing")  # type: ignore[arg-type]
    requests = [Request(PROMPTS[number % 3], 7 * number) for number in range(8)]
    together = rows(model, sampling, requests, 3)
    alone = [rows(model, sampling, [request], 3)[0] for request in requests]
    assert all(map(same, together, alone))
    assert not same(together[0], together[3]), "the same prompt with another seed"
    assert all(map(same, rows(model, sampling, requests[::-1], 3), together[::-1]))


@pytest.mark.parametrize("settings", [{}, {"guidance": (3.0, 3.0, 1.0)}, {"guidance": 4.0, "guidance_ramp": True}], ids=str)
def test_going_on_from_a_storyboard_is_drawing_all_at_once(model: LanguageModel, settings: dict[str, object]) -> None:
    sampling = Sampling(temperature=1.0, **settings)  # type: ignore[arg-type]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    whole = rows(model, sampling, requests, 3)
    for levels in (1, 2):
        story = rows(model, sampling, requests, levels)
        going_on = [Request(r.prompt, r.seed, given) for r, given in zip(requests, story, strict=True)]
        assert all(map(same, rows(model, sampling, going_on, 3), whole))
    other = [Request(r.prompt, r.seed, [1 - (given[0] & 1)]) for r, given in zip(requests, whole, strict=True)]
    assert not any(same(a[1:], b[1:]) for a, b in zip(rows(model, sampling, other, 3), whole, strict=True))


def test_without_guidance_from_a_level_on_the_second_half_is_dropped(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[tuple[int, int]] = []
    advance = KVCache.advance

    def counting(cache: KVCache, slots: int) -> None:
        fed.append((cache.rows, cache.seen))
        advance(cache, slots)

    monkeypatch.setattr(KVCache, "advance", counting)
    requests = [Request(prompt, 0) for prompt in PROMPTS]
    draw(model, TEXT, requests, Sampling(guidance=(3.0, 3.0, 1.0), plan="sequential"))
    border = model.layout.starts[2] - 1  # this slot predicts the first one of level 2
    assert {count for count, start in fed if start < border} == {6}
    assert {count for count, start in fed if start >= border} == {3}
    fed.clear()
    draw(model, TEXT, requests, Sampling(guidance=(1.0, 1.0, 1.0, 3.0), plan="sequential"), levels=3)
    assert {count for count, _ in fed} == {3}


def test_settings_of_a_level_act_on_it_alone(model: LanguageModel) -> None:
    requests = [Request(PROMPTS[0], 3)]
    base = rows(model, Sampling(temperature=1.0), requests, 2)[0]
    for changed in (
        {"temperature": (1.0, 0.0, 1.0)}, {"top_k": (0, 1, 0)}, {"guidance": (3.0, 50.0, 3.0)}, {"top_p": (1, 0.01, 1)},
    ):  # fmt: skip
        other = rows(model, Sampling(**{"temperature": 1.0, **changed}), requests, 2)[0]  # type: ignore[arg-type]
        assert same(other[:1], base[:1])
        assert not np.array_equal(other[1], base[1]), changed
    greedy, one = ({"temperature": (1.0, 0.0, 1.0)}, {"temperature": 1.0, "top_k": (0, 1, 0)})
    assert same(*(rows(model, Sampling(**each), requests, 2)[0] for each in (greedy, one)))  # type: ignore[arg-type]


def test_progress_and_passes(model: LanguageModel) -> None:
    tokens: list[int] = []
    levels: list[int] = []
    drawn = draw(model, TEXT, [Request("a", 0)], Sampling(plan="sequential"), None, Listener(tokens.append, levels.append))
    assert levels == [0, 1, 2, 3]
    assert drawn.passes == [grid.cells for grid in model.layout.grids]
    assert sum(tokens) == sum(drawn.passes)
    tokens.clear()
    faster = draw(model, TEXT, [Request("a", 0)], Sampling(plan="jacobi"), None, Listener(tokens.append))
    assert sum(tokens) == sum(drawn.passes)
    assert sum(faster.passes) == len(tokens) < sum(drawn.passes)


def test_a_model_that_has_drawn_can_be_trained() -> None:
    """Nothing of the drawing's inference mode stays with it."""
    model = random_model(ancestors=True)
    draw(model, TEXT, [Request("a", 0)], Sampling())
    layout = model.layout
    row = layout.join(TEXT.encode("a"), [np.zeros(grid, np.int64) for grid in layout.grids])
    model(torch.from_numpy(row)[None], 1.0)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
