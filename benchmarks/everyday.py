"""Benchmark of what is waited for every day: start-up, the first step, and the commands that look at data and runs.

    python -m benchmarks.everyday

Each command is a process of its own; its CPU time counts, which other load changes little, and the least of the rounds. The
first step of a run is held against a process that only imports torch and DeepSpeed: what lies between is ours.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hitvideo.settings.named_files import shipped_configs

ROUNDS, CLIPS, PER_SHARD = 3, 256, 32
HITVIDEO = (sys.executable, "-m", "hitvideo.commands.cli")
IMPORTS = (sys.executable, "-c", "import torch, deepspeed")


def taken(command: tuple[str, ...], folder: Path, rounds: int = ROUNDS) -> tuple[float, float]:
    """The least CPU seconds of a command, its own processes included, and the least of the clock. Raises if it fails."""
    cpu, wall = [], []
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    for _ in range(rounds):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        wall.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(cpu), min(wall)


def prepare(folder: Path) -> None:
    """A tokenizer, token shards and a run, each of a few steps."""
    configs, data = shipped_configs(), f"data.video_shards={folder / 'shards'}"
    root, weights = f"run.root={folder / 'runs'}", f"video_tokenizer.weights={folder / 'runs/tiny-tokenizer/weights'}"
    short = ("train.steps=2", "train.warmup_steps=0", "phases=[{name: all, steps: 2}]")
    shapes = ("data", "moving-shapes", str(folder / "shards"), "--num", str(CLIPS), "--per-shard", str(PER_SHARD))
    taken((*HITVIDEO, *shapes), folder, 1)
    tokenizer = ("-m", "pretrain.video_tokenizer", str(configs / "pretrain_tokenizer/tiny.yaml"), root, data, *short)
    taken((sys.executable, *tokenizer), folder, 1)
    job = ("-m", "tokenize_shards", str(configs / "tokenize_shards/tiny.yaml"), root, data, weights)
    taken((sys.executable, *job, f"data.out={folder / 'tokens'}"), folder, 1)


def first_step(folder: Path) -> tuple[str, ...]:
    """The demo's language model for one step, which it also saves and exports."""
    run = str(shipped_configs() / "pretrain/tiny.yaml")
    short = ("train.steps=1", "train.warmup_steps=0", "train.validation_batches=0")
    name = f"run.root={folder / f'runs{time.monotonic_ns()}'}"
    return sys.executable, "-m", "pretrain", run, name, f"data.manifest={folder / 'tokens/manifest.json'}", *short


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        manifest = str(folder / "tokens/manifest.json")
        commands = {
            "hitvideo --help": (*HITVIDEO, "--help"),
            "data verify": (*HITVIDEO, "data", "verify", manifest),
            "data verify --jobs 2": (*HITVIDEO, "data", "verify", manifest, "--jobs", "2"),
            "inspect manifest": (*HITVIDEO, "inspect", manifest),
            "report": (*HITVIDEO, "report", str(folder / "runs/tiny-tokenizer")),
            "imports alone": IMPORTS,
        }
        for label, command in commands.items():
            cpu, wall = taken(command, folder)
            print(f"{label:22} {cpu:6.2f} s of CPU, {wall:6.2f} s", flush=True)
        cpu, wall = taken(first_step(folder), folder, 1)
        alone = taken(IMPORTS, folder, 1)
        print(f"{'one step, all of it':22} {cpu:6.2f} s of CPU, {wall:6.2f} s")
        print(f"… after the imports: {cpu - alone[0]:.2f} s of CPU, with the checkpoint and the weights that end a run")


if __name__ == "__main__":
    main()
