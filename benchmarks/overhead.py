"""Benchmark of what logging, MLflow and checkpoints add to a training step.

    python -m benchmarks.overhead

One process, a model of 62 M parameters. Times steps alone and steps while a checkpoint is written, in turn. Prints the median
step without logging or saving, the time a row and a save take in the training thread, and the share of step time they add if
rows and checkpoints are as frequent as in the shipped 1B run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama import build
from hitvideo import config
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.save import Saver
from hitvideo.parallel.topology import start
from hitvideo.runs import history
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.run import CheckpointSection, TrackingSection
from hitvideo.settings.training import ParallelSection, TrainSection
from hitvideo.tracking.tracker import Tracker
from pretrain.meter import Meter
from tests.conftest import ROOT

ROUNDS, STEPS = 4, 5
RUN = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/1b.yaml")


def main() -> None:
    with tempfile.TemporaryDirectory() as root, start(tensor=1) as topology:
        loss, model, _ = build(topology.device)
        train = TrainSection(steps=1, global_batch=1, micro_batch=1, dtype="fp32")
        engine = Engine(model, topology, ParallelSection(zero_stage=1), train)
        directory = Path(root) / "run"
        directory.mkdir()
        saver = Saver(directory / "checkpoints", engine, CheckpointSection(keep_last=1), "benchmark")
        meter = Meter(engine, 1)
        (directory / "config.yaml").write_text(config.to_yaml(RUN))
        with Tracker(TrackingSection(), directory) as tracker:
            rounds = range(ROUNDS + 1)  # the first is a warm-up
            figures = [measure(engine, meter, loss.inputs, tracker, saver, directory, number) for number in rounds][1:]
        quiet, busy, row, save = (statistics.median(column) for column in zip(*figures, strict=True))
        shared = row / RUN.train.log_every + (save + STEPS * max(busy - quiet, 0)) / RUN.checkpoint.every
        print(f"step {quiet:.3f} s; while a checkpoint is being written {busy:.3f} s")
        print(f"time in the training thread: a row {1e3 * row:.2f} ms, a save {1e3 * save:.1f} ms")
        often = f"a row every {RUN.train.log_every} steps and a save every {RUN.checkpoint.every}"
        print(f"{often}: {100 * shared / quiet:.2f} % of step time")


def measure(
    engine: Engine, meter: Meter, inputs: Any, tracker: Tracker, saver: Saver, directory: Path, number: int
) -> tuple[float, ...]:
    """Seconds of a step alone, of a step during a save, of a logged row, and of starting a save."""

    def step() -> float:
        begin = time.perf_counter()
        with meter.phase("step", number):
            losses = engine(*inputs)
            engine.backward(losses["loss"])
            meter.add(losses)
            engine.agree(meter.loss())
            meter.close_step(engine.step())
        return time.perf_counter() - begin

    saver.finish()
    quiet = statistics.median(step() for _ in range(STEPS))
    begin = time.perf_counter()
    row = meter.row()
    history.append(directory / history.METRICS, history.stamped({"step": number + 1, **row}, 1))
    tracker.wake()
    logged = time.perf_counter() - begin
    begin = time.perf_counter()
    saver.save(number, {})
    saved = time.perf_counter() - begin
    busy = statistics.fmean(step() for _ in range(STEPS))
    return quiet, busy, logged, saved


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
