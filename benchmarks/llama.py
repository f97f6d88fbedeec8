"""Benchmark of a training step: our language model against Hugging Face's Llama of the same trunk, length and vocabulary.

    python -m benchmarks.llama [--rounds N] [--eager]

Both use torch's fused AdamW and are timed in turn in one process, in fp32, on a GPU if there is one: as they are and, without
--eager, with each layer compiled by torch.compile. Our head computes each level's logits only on that level's slots; Llama's
computes all logits on every slot. Prints seconds per step, the ratio of tokens per second (the median over rounds of two steps
that follow each other), and the FLOPs that the algorithm needs as a share of a large matrix product's rate in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hitvideo.hierarchy import Extent, Hierarchy, Level
from hitvideo.llm.compiled import compile_trunk
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.planning.flops import training_flops_per_row
from hitvideo.sequence.layout import SequenceLayout
from hitvideo.sequence.vocab import Vocab
from hitvideo.settings.language_model import LLMSection

WIDTH, LAYERS, HEADS, HIDDEN, TEXT, WINDOW, ROUNDS = 512, 8, 8, 1408, 32000, 64, 5
SQUARE = 1024  # of the matrix product


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
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        vocab_size=TEXT + 3 * 1024,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(device)
    ids = torch.randint(0, config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0)).to(device)
    return lambda: model(input_ids=ids, labels=ids).loss, model


def sides_of(device: torch.device, compiled: bool) -> tuple[dict[str, Callable[[], None]], int, float]:
    """A training step of each side, the number of slots, and the FLOPs that our side's step needs."""
    steps, length, flops = {}, 0, 0.0
    for kind in ("", " compiled") if compiled else ("",):
        our_loss, our_model, length = build(device)
        their_loss, their_model = llama(device, length)
        flops = training_flops_per_row(our_model)
        if kind:
            compile_trunk(our_model.trunk, device, whole=True)
            for layer in their_model.model.layers:  # type: ignore[union-attr]
                layer.forward = torch.compile(layer.forward)
        steps[f"ours{kind}"] = stepping(our_loss, our_model)
        steps[f"llama{kind}"] = stepping(their_loss, their_model)
    return steps, length, flops


def stepping(loss: Callable[[], torch.Tensor], model: torch.nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

    def step() -> None:
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--eager", action="store_true", help="leave out the compiled sides")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, length, flops = sides_of(device, not arguments.eager)
    square = torch.randn(SQUARE, SQUARE, device=device)
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds + 1):  # the first is a warm-up
        rounds.append({name: timed(step, device) for name, step in steps.items()})
        rounds[-1]["product"] = timed(lambda: square @ square, device)
    rate = 2 * SQUARE**3 / min(row["product"] for row in rounds)
    for name in steps:
        seconds = statistics.median(row[name] for row in rounds[1:])
        share = f", {flops / min(row[name] for row in rounds[1:]) / rate:.0%} of the product's rate" if "ours" in name else ""
        print(f"{name:15} {seconds:.3f} s per step{share}")
    print(f"{length} slots; a product of {SQUARE}² matrices: {rate / 1e9:.1f} GFLOP/s")
    for ours, theirs in [("ours", "llama"), ("ours compiled", "llama compiled"), ("ours compiled", "llama")]:
        if ours in steps:
            ratio = statistics.median(row[theirs] / row[ours] for row in rounds[1:])
            print(f"tokens/s {ours} : {theirs} = {ratio:.2f} : 1")


if __name__ == "__main__":
    main()
