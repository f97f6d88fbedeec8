"""A pass of the decoder gives what the model's own forward gives, whatever the model is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hitvideo.llm.decoding import Decoder, can_decode
from hitvideo.llm.model import LanguageModel
from tests.generation.models import TEXT, random_model

MODELS = {
    "all": {"ancestors": True},
    "plain": {"qk_norm": False, "kv_heads": 4},
    "one key for all": {"kv_heads": 1, "ancestors": True},
    "one sub-code": {"sub_bits": ((6,),) * 4, "ancestors": True},
    "3 levels of odd widths": {"downs": ((4, 8, 8), (4, 4, 4), (1, 4, 4)), "sub_bits": ((2,), (1, 1, 1, 1), (5, 2))},
}


def rows_of(model: LanguageModel, captions: list[str]) -> torch.Tensor:
    """Rows with random codes, for each caption and then for the empty one: (2 B, length, S)."""
    rng, layout = np.random.default_rng(0), model.layout
    codes = [[rng.integers(0, 1 << layout.vocab.num_bits(k), grid) for k, grid in enumerate(layout.grids)] for _ in captions]
    rows = [layout.join(TEXT.encode(text), each) for texts in (captions, [""] * len(captions))
            for text, each in zip(texts, codes, strict=True)]  # fmt: skip
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("videos", [1, 3])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_hidden_states_are_those_of_the_whole_rows(name: str, videos: int) -> None:
    """Level after level, one slot or several a pass; before some passes a wrong one, which is taken back."""
    model, rng = random_model(**MODELS[name]), np.random.default_rng(1)  # type: ignore[arg-type]
    rows = rows_of(model, ["a red circle", "a blue square", "a"][:videos])
    whole, cache = model.hidden(rows[:, :-1]), model.new_cache(len(rows))
    known = rows.clone()
    decoder = Decoder(model, cache)
    parts = [model.hidden(rows[:, : model.layout.window - 1], cache=cache)]
    for level, (start, stop) in enumerate(zip(model.layout.starts, model.layout.starts[1:], strict=False)):
        decoder.begin(level, known[:videos])
        if level == 0:  # its first input is a piece of text, which the halves do not share
            parts.append(model.hidden(rows[:, start - 1 : start], start - 1, cache, rows))
        while cache.seen < stop - 1:
            first, last = cache.seen, min(stop - 1, cache.seen + int(rng.integers(1, 7)))
            if rng.random() < 0.5:
                known[:, start:last] = known[:, start : start + 1]
                decoder.hidden(last)
                known.copy_(rows)
                cache.rewind(first)
            parts.append(decoder.hidden(last))
    torch.testing.assert_close(torch.cat(parts, 1), whole[:, : cache.seen], atol=1e-5, rtol=1e-5)
    assert cache.seen == whole.shape[1] - 1


def test_only_plain_layers_in_fp32_are_decoded_so() -> None:
    model = random_model()
    assert can_decode(model)
    assert not can_decode(random_model().to(torch.bfloat16))
    model.layers = type("Split", (), {"tensor_parallel": 2})()
    assert not can_decode(model)
