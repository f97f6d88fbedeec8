"""Benchmark of a training step on two processes: our engine (DeepSpeed ZeRO-3) against torch's FSDP2.

    python -m benchmarks.fsdp2

Both train the same model on the same row with AdamW, timed in turn in one process group, in fp32 (gloo on CPUs, NCCL on two
GPUs). Prints seconds per step of each and the ratio of their tokens per second, as medians over the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.distributed.fsdp import fully_shard

from benchmarks.llama import build
from hitvideo.llm.transformer import Block
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import Topology, start
from hitvideo.settings.training import ParallelSection, TrainSection
from tests.worlds import run_ranks

ROUNDS = 9
CLIP, LR = 1.0, 1e-4


def deepspeed(topology: Topology) -> tuple[Callable[[], None], int]:
    loss, model, length = build(topology.device)
    train = TrainSection(steps=1, global_batch=topology.data, micro_batch=1, dtype="fp32", lr=LR, clip=CLIP)
    engine = Engine(model, topology, ParallelSection(zero_stage=3), train, leaf_modules=[Block])

    def step() -> None:
        engine.backward(engine(*loss.inputs)["loss"])
        engine.step()

    return step, length


def fsdp2(topology: Topology) -> Callable[[], None]:
    loss, model, _ = build(topology.device)
    for block in model.trunk.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> None:
        model(*loss.inputs)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure() -> tuple[list[dict[str, float]], int]:
    """Seconds of each round's steps, and the number of slots."""
    with start(tensor=1) as topology:
        ours, length = deepspeed(topology)
        sides = {"zero-3": ours, "fsdp2": fsdp2(topology)}
        rounds = []
        for _ in range(ROUNDS + 1):
            seconds = {}
            for name, step in sides.items():
                torch.distributed.barrier()
                begin = time.perf_counter()
                step()
                if topology.device.type == "cuda":
                    torch.cuda.synchronize()
                torch.distributed.barrier()
                seconds[name] = time.perf_counter() - begin
            rounds.append(seconds)
        return rounds[1:], length  # the first was a warm-up


if __name__ == "__main__":
    found, slots = run_ranks(measure, 2, timeout=1200)[0]
    for side in found[0]:
        print(f"{side:7} {statistics.median(row[side] for row in found):.3f} s per step")
    ratio = statistics.median(row["fsdp2"] / row["zero-3"] for row in found)
    print(f"2 processes, {slots} slots each, tokens/s ZeRO-3 : FSDP2 = {ratio:.2f} : 1")
