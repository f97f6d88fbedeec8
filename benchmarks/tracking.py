"""Benchmark of what tracking costs training, end to end: off, with an MLflow server, and with one that never answers.

    python -m benchmarks.tracking

One process trains the demo's language model on made-up rows and logs every step, as the demo does. The three take turns of a
few steps, each round in another order, so that other work on the machine falls on all of them. Prints the ratios to "off",
round by round, of the time on the clock, and of the CPU time of the whole process, in which the tracker's thread is counted
until all rows have arrived. Connecting, once a start, is in neither.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tests.runs.servers import mlflow_server

from hitvideo.llm.init import initialize
from hitvideo.llm.model import LanguageModel
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.topology import start
from hitvideo.runs.writer import RunWriter
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.programs import PretrainRun, load_settings_as
from hitvideo.settings.training import ParallelSection, TrainSection
from hitvideo.tracking.feed import Feed
from hitvideo.tracking.tracker import Tracker
from pretrain.meter import Meter
from tests.conftest import ROOT

ROUNDS, STEPS, ROWS = 7, 8, 4
OFF = "off"


class Spent(NamedTuple):
    """Seconds of some steps."""

    clock: float
    cpu: float


class Side:
    """A run of its own with its tracker; all sides train the same model."""

    def __init__(self, name: str, uri: str | None, root: Path, stack: ExitStack) -> None:
        words = [f"run.root={root}", f"run.name={name}", f"tracking.uri={uri or 'null'}"]
        settings = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml", words)
        self.name, self.answers = name, uri is not None and name != "hanging"
        self.writer, self.step = RunWriter(settings, writer=True), 0
        self.tracker = stack.enter_context(Tracker(settings.tracking, self.writer.path, attempt=self.writer.attempt))
        self._feed = (self.writer.path, uri or "", settings.tracking.experiment)

    def train(self, engine: Engine, meter: Meter, rows: torch.Tensor) -> Spent:
        """Some steps with a row each."""
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            self.step += 1
            with meter.phase("step", self.step):
                losses = engine(rows, 0.1)
                engine.backward(losses["loss"])
                meter.add(losses)
                engine.agree(meter.loss())
                meter.close_step(engine.step())
            self.writer.append_metrics({"step": self.step, **meter.row()})
            self.tracker.wake()
        clock = time.perf_counter() - clock
        while self.answers and Feed(*self._feed).behind:
            time.sleep(0.5)
        return Spent(clock, time.process_time() - cpu)


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def main() -> None:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = f"http://127.0.0.1:{stack.enter_context(mlflow_server(root))}"
        hanging = stack.enter_context(silent_server())
        topology = stack.enter_context(start(tensor=1))
        settings = load_settings_as(PretrainRun, ROOT / "yaml_configs/pretrain/tiny.yaml")
        layout = make_layout(settings)
        model = LanguageModel(settings.llm, layout)
        initialize(model, settings.llm.width, settings.llm.layers, seed=0)
        train = TrainSection(steps=1, global_batch=ROWS, micro_batch=ROWS, dtype="fp32")
        engine = Engine(model, topology, ParallelSection(zero_stage=1), train)
        codes = np.random.default_rng(0).integers(0, 512, (ROWS, layout.length - layout.window - 1))
        rows = torch.from_numpy(layout.join_rows([list(range(10, 20))] * ROWS, codes)).to(topology.device)
        sides = [Side(name, uri, root, stack) for name, uri in ((OFF, None), ("server", server), ("hanging", hanging))]
        meter = Meter(engine, ROWS)
        for side in sides:  # the first steps are slow, and connecting is not counted
            side.train(engine, meter, rows)
        spent: dict[str, list[Spent]] = {side.name: [] for side in sides}
        for number in range(ROUNDS):
            for side in (*sides[number % 3 :], *sides[: number % 3]):
                spent[side.name].append(side.train(engine, meter, rows))
        report(spent)


def report(spent: dict[str, list[Spent]]) -> None:
    clock, cpu = (statistics.median(each) for each in zip(*spent[OFF], strict=True))
    print(f"off: {clock / STEPS:.3f} s a step on the clock, {cpu / STEPS:.3f} s of CPU; {ROUNDS} rounds of {STEPS} steps")
    for name, each in spent.items():
        if name == OFF:
            continue
        for what, place in (("clock", 0), ("CPU", 1)):
            ratios = [one[place] / other[place] for one, other in zip(each, spent[OFF], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{name:8} {what:5} {middle:.3f} of off (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
