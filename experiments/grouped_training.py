"""Train the language model with the cells of each level drawn in groups, and print its held-out loss by level as JSON.

    python -m experiments.grouped_training yaml_configs/pretrain/tiny.yaml data.manifest=M run.root=R run.name=N run.seed=0
        --groups raster raster block:1,2,2 spread:2,4,4

One process in fp32, with the data order, initial weights, optimizer and learning rate of `python -m pretrain`. A training that
was stopped goes on from its last minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from experiments.grouped_layout import Groups, order, parse_groups
from hitvideo.config import needed
from hitvideo.data.blend import open_tokens
from hitvideo.data.loader import Batches, split
from hitvideo.data.rows import TokenSource
from hitvideo.files import replacing
from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.parallel.parameter_groups import parameter_groups
from hitvideo.sequence.groups import GroupedLayout
from hitvideo.sequence.layout import make_layout
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.task import learning_rate

SAVE_EVERY = 60.0  # seconds


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(
        "--groups", nargs="+", type=parse_groups, action="append", required=True, metavar="GROUPS",
        help="one for each level, coarsest first; given several times, every micro-batch takes one of these orders at random",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="begin with these, a model.safetensors of the library's model")
    return parser


class ManyOrders(LanguageModel):
    """The library's model, which can change to another grouped order."""

    def use(self, grouped: GroupedLayout) -> None:
        """Compute in this order from now on."""
        self.layout.grouped = grouped
        self._grouped.clear()


def batches(settings: PretrainRun, source: TokenSource, samples: range) -> Batches:
    train, data = settings.train, settings.data
    return Batches(
        source, samples, global_batch=train.global_batch, micro_batch=train.micro_batch, data_rank=0, data_ranks=1,
        seed=settings.run.seed, read_together=data.read_together, threads=0,
    )  # fmt: skip


def train(settings: PretrainRun, orders: Sequence[Sequence[Groups]], weights: Path | None) -> dict[str, Any]:
    """For each of the orders the held-out mean nats of an index by level."""
    layout, plan, seed = make_layout(settings), settings.train, settings.run.seed
    dataset = open_tokens(settings.data, settings.clip)
    text = TextTokenizer.load(needed(settings.text.model, "text.model"))
    training, held_out = split(len(dataset), settings.data.validation_samples)
    rows = batches(settings, TokenSource(dataset, layout, text, seed, settings.data.caption_dropout), training)
    unseen = batches(settings, TokenSource(dataset, layout, text, seed, 0.0), held_out)
    model = ManyOrders(settings.llm, layout)
    initialize(model, settings.llm.width, settings.llm.layers, seed)
    if weights:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    grouped = [order(layout, levels) for levels in orders]
    parts = [group for _, group in parameter_groups(model, plan.weight_decay, [""])]
    optimizer = torch.optim.AdamW(parts, lr=plan.lr, betas=plan.betas, fused=True)
    file, step = settings.run.directory / "training.pt", 0
    if file.is_file():
        state = torch.load(file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    saved = time.monotonic()
    while step < plan.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        micro = rows(step)
        for batch, chosen in zip(
            micro, np.random.default_rng((seed, step)).integers(len(grouped), size=len(micro)), strict=True
        ):
            model.use(grouped[chosen])
            losses = model(batch, plan.text_loss_weight, plan.level_balance, grouped=True)
            (losses["loss"] / len(micro)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step == plan.steps or time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            save(file, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
            print(f"step {step}: loss {losses['loss'].item():.3f}", file=sys.stderr, flush=True)
    return {"orders": [evaluate(model, each, unseen, max(1, len(held_out) // plan.global_batch)) for each in grouped]}


@torch.no_grad()
def evaluate(model: ManyOrders, grouped: GroupedLayout, unseen: Batches, steps: int) -> list[float]:
    """Mean nats of each level over held-out batches."""
    model.use(grouped)
    found = [model(batch, 0.0, grouped=True) for step in range(steps) for batch in unseen(step)]
    names = [f"loss_level_{level}" for level in range(len(model.layout.grids))]
    return [torch.stack([losses[name] for losses in found]).mean().item() for name in names]


def save(file: Path, state: dict[str, object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        torch.save(state, new)


def main() -> None:
    words = parser().parse_intermixed_args()
    settings = load_settings_as(PretrainRun, Path(words.config), words.overrides)
    print(json.dumps(train(settings, words.groups, words.weights)))


if __name__ == "__main__":
    main()
