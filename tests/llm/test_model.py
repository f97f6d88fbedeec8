"""The language model: exact distributions over indices, losses by enumeration, and a cache that changes no result."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch

from hitvideo.generation.engine import generate_codes
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.heads import LevelHead
from hitvideo.llm.init import initialize
from hitvideo.llm.layers import DenseLayers
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import PAD, Vocab
from hitvideo.settings.language_model import LLMSection

TEXT_SIZE, WINDOW = 300, 7
SECTION = LLMSection(layers=2, width=24, heads=4, kv_heads=2, hidden=40, rope_axes=(2, 2, 2), qk_norm=True)
HIERARCHY = Hierarchy(levels=(Level(down=(4, 4, 4), num_bits=6, sub_bits=(3, 3)), Level(down=(2, 2, 2), num_bits=4)))


def make(**changes: object) -> LanguageModel:
    """`changes`: of SECTION."""
    section = SECTION.model_copy(update=changes)
    layout = SequenceLayout(Vocab(TEXT_SIZE, HIERARCHY), HIERARCHY, Extent(4, 4, 8), WINDOW, section.rope)
    model = LanguageModel(section, layout)
    initialize(model, SECTION.width, SECTION.layers, seed=0)
    for head in model.heads:  # far from uniform, so that a wrong condition shows
        for parameter in head.parameters():
            parameter.data *= 3
    return model


def make_rows(model: LanguageModel, count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        pairs = zip(HIERARCHY.levels, model.layout.grids, strict=True)
        codes = [rng.integers(0, 1 << level.num_bits, grid) for level, grid in pairs]
        rows.append(model.layout.join(rng.integers(5, TEXT_SIZE, rng.integers(0, 9)).tolist(), codes))
    return torch.from_numpy(np.stack(rows))


def index_nats(model: LanguageModel, level: int, hidden: torch.Tensor, index: int) -> torch.Tensor:
    """-log p(index) for hidden (B, D), from the logits that generation draws from."""
    bits = HIERARCHY.levels[level].sub_codes
    head = model.heads[level]
    assert isinstance(head, LevelHead)
    nats, shift = torch.zeros(len(hidden)), sum(bits)
    chosen = torch.zeros(len(hidden), 0, dtype=torch.long)
    for b in bits:
        shift -= b
        sub = (index >> shift) & ((1 << b) - 1)
        nats = nats - head.logits(hidden, chosen).log_softmax(-1)[:, sub]
        chosen = torch.cat([chosen, torch.full((len(hidden), 1), sub)], 1)
    return nats


@pytest.mark.parametrize("bits", [(3, 3), (2, 1, 3), (5,)])
def test_sub_codes_are_one_normalised_distribution(bits: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = LevelHead(16, bits, 1e-5, DenseLayers())
    hidden = torch.randn(4, 1, 16) * 3
    every = torch.tensor(list(itertools.product(*(range(1 << b) for b in bits))))  # all 2^n combinations
    nats = head.loss(hidden.expand(-1, len(every), -1), every.expand(4, -1, -1))  # (4, 2^n)
    torch.testing.assert_close((-nats).exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    assert (-nats).exp().std() > 1e-4, "a uniform distribution would sum to one as well"


@torch.no_grad()
def test_losses_by_enumeration() -> None:
    model = make()
    rows, layout = make_rows(model, 3), model.layout
    losses = model(rows, text_weight=0.25)
    hidden = model.hidden(rows[:, :-1])
    video, slots = torch.zeros(3), 0
    for level in range(len(HIERARCHY.levels)):
        nats = []
        for slot in range(layout.starts[level], layout.starts[level + 1]):
            for row in range(3):
                index = int(layout.vocab.to_indices(level, rows[row, slot : slot + 1].numpy())[0])
                nats.append(index_nats(model, level, hidden[row : row + 1, slot - 1], index)[0])
                video[row] += nats[-1]
        slots += layout.grids[level].cells
        torch.testing.assert_close(losses[f"loss_level_{level}"], torch.stack(nats).mean(), atol=1e-5, rtol=1e-5)
    text = []
    for row in rows:
        caption = [slot for slot in range(1, WINDOW) if row[slot, 0] != PAD]  # EOS too, BOS not
        index = torch.nonzero((rows == row).all(-1).all(-1))[0, 0]
        logits = model.text_head(hidden[index]).log_softmax(-1)
        text.append(torch.stack([-logits[slot - 1, row[slot, 0]] for slot in caption]).mean())
    torch.testing.assert_close(losses["loss_text"], torch.stack(text).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["loss"], video.mean() / slots + 0.25 * losses["loss_text"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_losses_are_means_over_rows() -> None:
    """However a batch is split, the mean of the parts is the whole: captions of different length do not tilt it."""
    model = make()
    rows = make_rows(model, 6)
    whole = model(rows, text_weight=0.5)
    for parts in (rows.split(1), rows.split(2), rows.split(3)):
        found = [model(part, text_weight=0.5) for part in parts]
        for name, value in whole.items():
            torch.testing.assert_close(torch.stack([f[name] for f in found]).mean(), value, atol=1e-5, rtol=1e-5)


VARIANTS = [{}, {"ancestors": True}, {"rope": "1d"}, {"rope": "3d-unaligned", "ancestors": True}]


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_cached_equals_uncached(changes: dict[str, object]) -> None:
    """Also several slots at a time; what the rows hold after them is not looked at."""
    model = make(**changes)
    rows = make_rows(model, 2)
    expected = model.hidden(rows[:, :-1])
    cache = model.new_cache(2)
    parts = [model.hidden(rows[:, :WINDOW], cache=cache)]
    for slot in range(WINDOW, model.layout.length - 1):
        known = rows.clone()
        known[:, slot + 1 :] = 0
        parts.append(model.hidden(rows[:, slot : slot + 1], start=slot, cache=cache, rows=known))
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_causal(changes: dict[str, object]) -> None:
    model = make(**changes)
    rows = make_rows(model, 1)
    before = model.hidden(rows[:, :-1])
    other = make_rows(model, 1, seed=9)
    for slot in range(1, model.layout.length - 1, 3):
        changed = rows.clone()
        changed[:, slot:] = other[:, slot:]
        after = model.hidden(changed[:, :-1])
        torch.testing.assert_close(after[:, :slot], before[:, :slot], atol=1e-6, rtol=0)
        assert (after - before)[:, slot:].abs().max() > 1e-3


@torch.no_grad()
def test_padding_after_the_caption_is_no_target() -> None:
    model = make()
    rows = make_rows(model, 1)
    rows[0, 1:WINDOW, 0] = torch.tensor([10, 11, 3, PAD, PAD, PAD])
    hidden = model.hidden(rows[:, :-1])
    nats = -model.text_head(hidden[0, :3]).log_softmax(-1)[torch.arange(3), torch.tensor([10, 11, 3])]
    torch.testing.assert_close(model(rows, 1.0)["loss_text"], nats.mean(), atol=1e-5, rtol=1e-5)


def test_only_the_levels_codes_are_possible() -> None:
    model = make()
    text = TextTokenizer.train(["a red thing"], TEXT_SIZE)
    for levels in (1, 2):
        codes = generate_codes(model, text, ["a red thing", ""], Sampling(guidance=2.0, temperature=5.0), levels)
        assert [c.shape for c in codes] == [(2, *grid) for grid in model.layout.grids[:levels]]
        for level, indices in zip(HIERARCHY.levels, codes, strict=False):
            assert indices.min() >= 0
            assert indices.max() < 1 << level.num_bits
            assert len(np.unique(indices)) > 1


def test_generation_draws_from_the_distribution_that_was_trained() -> None:
    """Level 0 of one cell: the frequencies of 4,000 drawn indices are the model's probabilities."""
    hierarchy = Hierarchy(levels=(Level(down=(4, 4, 4), num_bits=3, sub_bits=(2, 1)),))
    layout = SequenceLayout(Vocab(TEXT_SIZE, hierarchy), hierarchy, Extent(4, 4, 4), 4)
    model = LanguageModel(SECTION, layout)
    initialize(model, SECTION.width, SECTION.layers, seed=1)
    text = TextTokenizer.train(["a red thing"], TEXT_SIZE)
    drawn = generate_codes(model, text, ["a red"] * 4000, Sampling(guidance=1.0, temperature=1.0))[0].reshape(-1)
    ids = text.encode("a red")
    with torch.no_grad():
        chances = []
        for index in range(8):
            row = torch.from_numpy(layout.join(ids, [np.full((1, 1, 1), index)]))[None]
            chances.append(float((-model(row, 0.0)["loss_level_0"]).exp()))
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    found = np.bincount(drawn, minlength=8) / 4000
    # Standard error at most √(0.25 / 4000) = 0.008; four of them.
    np.testing.assert_allclose(found, chances, atol=0.032)


def test_golden_parameter_count() -> None:
    d = 24
    vocab = TEXT_SIZE + 8 + 8 + 16
    embeddings = vocab * d + 2 * 3 * d  # ids; level and next level, of text and two levels
    attention = d * d + 2 * d * 12 + d * d + 2 * 6  # q, k and v of two heads of 6, out, two norms of a head
    block = attention + 3 * d * 40 + 2 * d
    text_head = TEXT_SIZE * d
    level_0 = 2 * 8 * d + (8 * d + d + 2 * d * 2 * d)  # two outputs; embedding, norm, up and down of the condition
    level_1 = 16 * d
    expected = embeddings + 2 * block + d + text_head + level_0 + level_1
    assert expected == 27960
    assert sum(parameter.numel() for parameter in make().parameters()) == expected


@torch.no_grad()
def test_a_slot_is_told_the_ancestors_of_the_cell_it_predicts() -> None:
    """Without attention and MLPs a slot knows its own ids and those ancestors, and nothing else."""
    model = make(ancestors=True)
    for block in model.trunk.blocks:
        block.attention.out.weight.zero_()
        block.mlp.down.weight.zero_()
    rows, layout = make_rows(model, 1), model.layout
    before, other = model.hidden(rows[:, :-1]), make_rows(model, 1, seed=9)
    for changed_slot in range(layout.starts[0], layout.starts[-1]):
        changed = rows.clone()
        changed[:, changed_slot] = other[:, changed_slot]
        if torch.equal(changed, rows):
            continue
        moved = (model.hidden(changed[:, :-1]) - before)[0].abs().amax(-1) > 1e-6
        told = [slot - 1 for slot in range(1, layout.length) if changed_slot in layout.ancestors[slot]]
        assert set(moved.nonzero().flatten().tolist()) == {changed_slot, *told}
    # By hand: the last cell of level 1, grid (2, 2, 4), is under the last of level 0, grid (1, 1, 2); level 1 begins at 9.
    assert layout.ancestors[9 + 15].tolist() == [WINDOW + 1]
    sum_of_both = sum(model.ancestor.weight[int(i) - TEXT_SIZE] for i in rows[0, WINDOW + 1])
    x = model.embedding.weight[rows[0, 9 + 14, 0]] + model.level.weight[2] + model.next_level.weight[2] + sum_of_both
    torch.testing.assert_close(before[0, 9 + 14], model.trunk.norm(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_input_may_differ_from_the_targets() -> None:
    model = make(ancestors=True)
    rows, seen = make_rows(model, 3), make_rows(model, 3, seed=5)
    mixed = model(rows, 0.25, 0.5, seen)
    assert not torch.isclose(mixed["loss"], model(rows, 0.25, 0.5)["loss"])
    layout, hidden = model.layout, model.hidden(seen[:, :-1])
    start, stop = layout.starts[1:3]
    expected = model.heads[1].loss(hidden[:, start - 1 : stop - 1], layout.vocab.sub_codes(1, rows[:, start:stop])).mean()
    torch.testing.assert_close(mixed["loss_level_1"], expected)


def test_a_model_of_one_level_has_no_ancestors() -> None:
    hierarchy = Hierarchy(levels=HIERARCHY.levels[1:])
    layout = SequenceLayout(Vocab(TEXT_SIZE, hierarchy), hierarchy, Extent(4, 4, 8), WINDOW)
    plain, told = (LanguageModel(SECTION.model_copy(update={"ancestors": on}), layout) for on in (False, True))
    assert plain.state_dict().keys() == told.state_dict().keys()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_parameter_is_trained(changes: dict[str, object]) -> None:
    model = make(**changes)
    model(make_rows(model, 8), text_weight=1.0)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
@pytest.mark.parametrize("plan", ["sequential", "jacobi"])
def test_generation_tells_the_ancestors_too(plan: Literal["sequential", "jacobi"]) -> None:
    """Without a cache, the whole row at once: what was drawn is the likeliest given what was drawn before."""
    model, text = make(ancestors=True), TextTokenizer.train(["a red thing"], TEXT_SIZE)
    codes = generate_codes(model, text, ["a red thing"], Sampling(guidance=1.0, temperature=0.0, plan=plan))
    layout = model.layout
    row = torch.from_numpy(layout.join(text.encode("a red thing"), [level[0] for level in codes]))[None]
    hidden = model.hidden(row[:, :-1])
    plain = make().hidden(row[:, :-1])
    assert not torch.allclose(hidden[:, layout.starts[1] - 1 :], plain[:, layout.starts[1] - 1 :])
    for level, (start, stop) in enumerate(zip(layout.starts, layout.starts[1:], strict=False)):
        chosen = layout.vocab.sub_codes(level, row[0, start:stop])
        for sub in range(chosen.shape[1]):
            logits = model.heads[level].logits(hidden[0, start - 1 : stop - 1], chosen[:, :sub])
            assert torch.equal(logits.argmax(-1), chosen[:, sub])
