"""Initial weights: a function of name, seed and full shape for every layout, with the standard deviations of the rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection
from tests.worlds import run_ranks

SECTION = LLMSection(layers=3, width=48, heads=4, kv_heads=2, hidden=128, rope_axes=(4, 4, 4), qk_norm=True)
HIERARCHY = Hierarchy(levels=(Level(down=(2, 2, 2), num_bits=6, sub_bits=(3, 3)), Level(down=(1, 1, 1), num_bits=8)))
SEED = 5


def layout() -> SequenceLayout:
    return SequenceLayout(Vocab(300, HIERARCHY), HIERARCHY, Extent(2, 2, 2), 6)


def dense(seed: int = SEED) -> dict[str, torch.Tensor]:
    model = LanguageModel(SECTION, layout())
    initialize(model, SECTION.width, SECTION.layers, seed)
    return dict(model.state_dict())


def divided() -> dict[str, Any]:
    """On one rank of two: its share of everything that has a name in a checkpoint."""
    from hitvideo.parallel.layers import MegatronLayers
    from hitvideo.parallel.topology import start

    with start(2) as topology:
        model = LanguageModel(SECTION, layout(), MegatronLayers(2, torch.float32))
        initialize(model, SECTION.width, SECTION.layers, SEED, topology.tensor_rank, 2)
        state = model.state_dict()  # Megatron adds an entry without a value to each layer
        return {name: tensor.numpy() for name, tensor in state.items() if tensor is not None}


@pytest.mark.slow  # the fork server imports torch, DeepSpeed and Megatron once
def test_the_ranks_shares_are_slices_of_the_whole() -> None:
    whole, (first, second) = dense(), run_ranks(divided, 2)
    assert first.keys() == second.keys() == whole.keys()
    split = 0
    for name, tensor in whole.items():
        one, other = first[name], second[name]
        if one.shape == tuple(tensor.shape):
            np.testing.assert_array_equal(one, tensor)
            np.testing.assert_array_equal(other, tensor)
        else:
            dim = 1 if name.endswith((".out.weight", ".down.weight")) else 0
            np.testing.assert_array_equal(np.concatenate([one, other], dim), tensor)
            split += 1
    # 7 matrices per block; ids' embedding and text head; 2 + 1 outputs; embedding, up and down of the one Given.
    assert split == 3 * 7 + 2 + 3 + 3


def test_the_standard_deviations_are_those_of_the_rules() -> None:
    """The standard error of σ over N numbers is σ/√(2N); five of those, which for 1,152 numbers or more is within 10 %."""
    plain, residual = 48**-0.5, (2 * 3 * 48) ** -0.5
    for name, tensor in dense().items():
        if tensor.ndim == 1:
            assert (tensor == 1).all(), name
            continue
        expected = residual if name.endswith((".out.weight", ".down.weight")) else plain
        error = 5 * expected / (2 * tensor.numel()) ** 0.5
        assert tensor.std().item() == pytest.approx(expected, abs=error), name
        assert abs(tensor.mean().item()) < 5 * expected / tensor.numel() ** 0.5, name


def test_every_parameter_differs_and_the_seed_counts() -> None:
    one, same, other = dense(), dense(), dense(SEED + 1)
    matrices = [name for name, tensor in one.items() if tensor.ndim > 1]
    for name in matrices:
        assert torch.equal(one[name], same[name])
        assert not torch.equal(one[name], other[name])
    firsts = {one[name].flatten()[0].item() for name in matrices}
    assert len(firsts) == len(matrices)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    model = LanguageModel(SECTION, layout())
    torch.manual_seed(0)
    initialize(model, SECTION.width, SECTION.layers, SEED)
    assert torch.equal(torch.rand(3), expected)
