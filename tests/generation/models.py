"""Small random language models for the tests of generation."""

from __future__ import annotations

from collections.abc import Sequence

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

PROMPTS = ["a red circle", "a blue square", "a green thing"]
TEXT = TextTokenizer.train(PROMPTS, 400)
TINY = ((8, 16, 16), (8, 8, 8), (4, 8, 8), (4, 4, 4))


def random_model(
    downs: Sequence[tuple[int, int, int]] = TINY,
    sub_bits: Sequence[tuple[int, ...]] = ((3, 3),) * 4,
    extent: Extent | None = None,
    sharpness: float = 6.0,
    **section: object,
) -> LanguageModel:
    """A model whose draws depend on what was drawn before: its heads and its attention are far from uniform."""
    levels = [Level(down=down, num_bits=sum(bits), sub_bits=bits) for down, bits in zip(downs, sub_bits, strict=True)]
    hierarchy = Hierarchy(levels=tuple(levels))
    sizes = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "hidden": 64, "rope_axes": (4, 2, 2), "qk_norm": True}
    llm = LLMSection(**{**sizes, **section})
    layout = SequenceLayout(Vocab(400, hierarchy), hierarchy, extent or Extent(8, 32, 32), 12, groups=llm.groups)
    model = LanguageModel(llm, layout)
    initialize(model, llm.width, llm.layers, seed=0)
    for head in model.heads:
        for parameter in head.parameters():
            parameter.data *= sharpness
    return model.eval()
