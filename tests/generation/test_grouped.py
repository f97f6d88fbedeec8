"""The plan `grouped`: what the engine draws with its cache is what the whole row in grouped order finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation.engine import Listener, Request, draw
from hitvideo.generation.memory import bytes_per_video
from hitvideo.generation.sampling import Sampling
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.groups import Region
from tests.generation.models import PROMPTS, TEXT, random_model

GROUPS: list[tuple[Region | None, ...]] = [
    (None, (1, 1, 2), (2, 2, 1), (2, 4, 2)),
    ((1, 1, 1), None, (1, 2, 2), (1, 1, 1)),
    ((1, 1, 2), (1, 4, 4), None, (2, 8, 8)),
]
REQUESTS = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def grouped(**settings: object) -> Sampling:
    return Sampling(**{"plan": "grouped", "temperature": 1.0, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=GROUPS, ids=str)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return random_model(groups=request.param, ancestors=request.param[0] is None)


def test_greedy_codes_are_what_the_whole_row_in_grouped_order_finds_likeliest(model: LanguageModel) -> None:
    """The path of training: no cache, all groups at once, under the mask of the order."""
    drawn = draw(model, TEXT, REQUESTS[:1], grouped(guidance=1, temperature=0.0))
    layout = model.layout
    assert layout.grouped is not None
    assert drawn.passes == [len(level) for level in layout.grouped.levels]
    row = torch.from_numpy(layout.join(TEXT.encode(PROMPTS[0]), [indices[0] for indices in drawn.codes]))[None]
    hidden = model.grouped_hidden(row[:, :-1])[:, model.grouped_slots(row.device).predicts]
    for level, (start, stop) in enumerate(zip(layout.starts, layout.starts[1:], strict=False)):
        head, sub_codes = model.heads[level], layout.vocab.sub_codes(level, row[:, start:stop])
        assert isinstance(head, LevelHead)
        for kind in range(sub_codes.shape[-1]):
            logits = head.logits(hidden[:, start - 1 : stop - 1], sub_codes[..., :kind])
            assert torch.equal(logits.argmax(-1), sub_codes[..., kind]), (level, kind)


def test_a_video_depends_on_no_other_and_a_storyboard_goes_on(model: LanguageModel) -> None:
    sampling = grouped(guidance=(1.0, 3.0, 1.0))
    together = draw(model, TEXT, REQUESTS, sampling).codes
    for number, request in enumerate(REQUESTS):
        alone = draw(model, TEXT, [request], sampling).codes
        assert all(np.array_equal(a[0], b[number]) for a, b in zip(alone, together, strict=True))
        for levels in (1, 2, 3):
            story = draw(model, TEXT, [request], sampling, levels).codes
            whole = draw(model, TEXT, [Request(request.prompt, request.seed, [c[0] for c in story])], sampling)
            assert whole.passes[:levels] == [0] * levels
            assert all(np.array_equal(a, b) for a, b in zip(whole.codes, alone, strict=True))


def test_other_seeds_guidance_and_plans_draw_other_codes(model: LanguageModel) -> None:
    first = draw(model, TEXT, REQUESTS[:1], grouped()).codes[-1]
    for other in (
        draw(model, TEXT, [Request(PROMPTS[0], 9)], grouped()),
        draw(model, TEXT, REQUESTS[:1], grouped(guidance_ramp=True)),
        draw(model, TEXT, REQUESTS[:1], grouped(plan="sequential")),
    ):
        assert not np.array_equal(first, other.codes[-1])


def test_every_cell_is_told_and_the_cache_is_no_larger_than_planned(model: LanguageModel) -> None:
    told: list[int] = []
    drawn = draw(model, TEXT, REQUESTS[:2], grouped(), 3, Listener(told.append))
    assert sum(told) == model.layout.starts[3] - model.layout.starts[0]
    assert drawn.cache_bytes <= 2 * bytes_per_video(model, grouped(), 3)


def test_the_other_plans_work_as_without_groups() -> None:
    with_groups, without = random_model(groups=GROUPS[0]), random_model()
    for plan in ("sequential", "jacobi"):
        found, expected = (draw(each, TEXT, REQUESTS, grouped(plan=plan)).codes for each in (with_groups, without))
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_run_without_groups_refuses_the_plan() -> None:
    with pytest.raises(ConfigError, match=r"llm\.groups"):
        draw(random_model(), TEXT, REQUESTS, grouped())
