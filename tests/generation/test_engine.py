"""Generation: the storyboard is the beginning of the video, seeds repeat, guidance does what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation.engine import generate_codes
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection
from tests.samples import tiny_hierarchy

PROMPTS = ["a red circle", "a blue square", "a green thing"]
TEXT = TextTokenizer.train(PROMPTS, 400)


@pytest.fixture(scope="module", params=["one sub-code", "two sub-codes"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    hierarchy, clip = tiny_hierarchy()
    if request.param == "two sub-codes":
        levels = [Level(down=level.down, num_bits=6, sub_bits=(3, 3)) for level in hierarchy.levels]
        hierarchy = Hierarchy(levels=tuple(levels))
    section = LLMSection(layers=2, width=32, heads=4, kv_heads=2, hidden=64, rope_axes=(4, 2, 2), qk_norm=True)
    layout = SequenceLayout(Vocab(400, hierarchy), hierarchy, clip.extent, 12)
    made = LanguageModel(section, layout)
    initialize(made, 32, 2, seed=0)
    return made.eval()


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
