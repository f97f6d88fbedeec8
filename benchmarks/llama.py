"""Benchmark of a training step: our language model against Hugging Face's Llama of the same trunk, length and vocabulary.

    python -m benchmarks.llama

Both use torch's fused AdamW and are timed in turn in one process, in fp32, on a GPU if there is one. Our head computes each
level's logits only on that level's slots; Llama's computes all logits on every slot. Prints seconds per step and the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

WIDTH, LAYERS, HEADS, HIDDEN, TEXT, WINDOW, ROUNDS = 512, 8, 8, 1408, 32000, 64, 5


class Loss:
    """The loss of one fixed row."""

    def __init__(self, model: LanguageModel, row: torch.Tensor) -> None:
        self.model = model
        self.inputs = (row, 0.1)

    def __call__(self) -> torch.Tensor:
        loss: torch.Tensor = self.model(*self.inputs)["loss"]
        return loss


def build(device: torch.device) -> tuple[Loss, LanguageModel, int]:
    """Returns the loss of one row, our model, and the number of slots."""
    levels = tuple(Level(down=down, num_bits=10) for down in ((16, 32, 32), (8, 16, 16), (4, 8, 8)))
    hierarchy = Hierarchy(levels=levels)
    layout = SequenceLayout(Vocab(TEXT, hierarchy), hierarchy, Extent(16, 128, 128), WINDOW)
    llm = LLMSection(layers=LAYERS, width=WIDTH, heads=HEADS, kv_heads=HEADS, hidden=HIDDEN, rope_axes=(16, 24, 24))
    model = LanguageModel(llm, layout)
    initialize(model, WIDTH, LAYERS, seed=0)
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 1024, grid) for grid in layout.grids]
    row = torch.from_numpy(layout.join(list(range(10, 60)), codes))[None].to(device)
    return Loss(model.to(device), row), model, layout.length - 1


def llama(device: torch.device, length: int) -> tuple[Callable[[], torch.Tensor], torch.nn.Module]:
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, vocab_size=TEXT + 3 * 1024, max_position_embeddings=8192, tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(device)
    ids = torch.randint(0, config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    return lambda: model(input_ids=ids, labels=ids).loss, model


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    our_loss, our_model, length = build(device)
    their_loss, their_model = llama(device, length)
    sides = {"ours": (our_loss, our_model), "llama": (their_loss, their_model)}
    optimizers = {name: torch.optim.AdamW(model.parameters(), 1e-4, fused=True) for name, (_, model) in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):  # the first is a warm-up
        for name, (loss, _) in sides.items():
            start = time.perf_counter()
            loss().backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, (_, model) in sides.items():
        print(f"{name:6} {sum(p.numel() for p in model.parameters()) / 1e6:6.1f} M parameters  {medians[name]:.3f} s per step")
    print(f"{length} slots, tokens/s ours : llama = {medians['llama'] / medians['ours']:.2f} : 1")


if __name__ == "__main__":
    main()
