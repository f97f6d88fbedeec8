"""Searches the settings that change a language model's speed and memory, not what it computes: ZeRO stage, tensor, sequence and
context parallelism, micro-batch, recomputation, compilation, and the number of nodes. The global batch stays.

Times are predicted for all settings; memory is the plan's, measured only for those that are faster than what fits so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from hitvideo.errors import ConfigError
from hitvideo.llm.recompute import Recompute
from hitvideo.planning.activations import activation_bytes
from hitvideo.planning.simulation.prediction import Prediction, predict
from hitvideo.planning.simulation.run_work import Counts
from hitvideo.planning.zero import GIB, model_states, software_bytes
from hitvideo.settings.programs import PretrainRun
from hitvideo.settings.training import ParallelSection

LEFT_FREE = 0.07
"""Share of a device's memory that no setting may plan to use: fragmentation takes it."""
_MOST_NODES = 512
_MOST_MICRO_BATCH = 32


@dataclass(frozen=True)
class Candidate:
    """One setting, with what it is predicted to take."""

    settings: PretrainRun
    prediction: Prediction
    total_gib: float
    binds: str
    """What keeps this number of devices from being faster: "memory", if a faster setting does not fit, else the longest part of
    the step."""

    @property
    def words(self) -> list[str]:
        """The overrides of a run file that set it."""
        parallel, train = self.settings.parallel, self.settings.train
        return [
            f"cluster.nodes={self.settings.cluster.nodes}", f"parallel.zero_stage={parallel.zero_stage}",
            f"parallel.tensor={parallel.tensor}", f"parallel.sequence={str(parallel.sequence).lower()}",
            f"parallel.context={parallel.context}", f"parallel.activation_checkpointing={parallel.activation_checkpointing}",
            f"train.micro_batch={train.micro_batch}", f"train.compile={str(train.compile).lower()}",
        ]  # fmt: skip

    def figures(self) -> dict[str, Any]:
        """For JSON."""
        return {"settings": self.words, "total_gib": self.total_gib, "binds": self.binds, **self.prediction.figures()}


@dataclass(frozen=True)
class Found:
    """What a search found."""

    best: tuple[Candidate, ...]
    """The fastest setting that fits, for each number of devices that has one; the fewest devices first."""
    nodes: int
    """The run's own."""

    @property
    def fastest(self) -> Candidate:
        return min(self.best, key=lambda each: each.prediction.step_s)

    @property
    def here(self) -> Candidate | None:
        """The fastest on the run's own nodes."""
        return next((each for each in self.best if each.settings.cluster.nodes == self.nodes), None)

    def cheapest(self, deadline_days: float | None = None) -> Candidate | None:
        """The one that takes the fewest device-hours and ends within the deadline, if there is one."""
        in_time = [each for each in self.best if deadline_days is None or each.prediction.days <= deadline_days]
        return min(in_time, key=lambda each: each.prediction.devices * each.prediction.step_s, default=None)

    def figures(self, deadline_days: float | None = None) -> dict[str, Any]:
        """For JSON."""
        named = {"fastest": self.fastest, "here": self.here, "cheapest": self.cheapest(deadline_days)}
        chosen = {name: each.figures() if each else None for name, each in named.items()}
        return {"best": [each.figures() for each in self.best], **chosen}


def search(settings: PretrainRun) -> Found:
    """Search around a run. Raises ConfigError if nothing fits, or the cluster's memory bandwidth is not given."""
    count, memory = Counts(settings), Memory()
    nodes = sorted({*(1 << power for power in range(_MOST_NODES.bit_length())), settings.cluster.nodes})
    found = tuple(best for number in nodes if (best := _best(settings, number, count, memory)))
    if not found:
        raise ConfigError(
            f"no setting fits: no layout of 1 to {_MOST_NODES} nodes divides train.global_batch and leaves "
            f"{LEFT_FREE:.0%} of cluster.memory_gib free; change train.global_batch or use larger devices"
        )
    return Found(found, settings.cluster.nodes)


class Memory:
    """The plan's memory of any setting of one run. Activations grow with the rows, so they are measured for one and two."""

    def __init__(self) -> None:
        self._known: dict[tuple[ParallelSection, bool], tuple[float, float]] = {}

    def total_gib(self, run: PretrainRun, count: Counts) -> float:
        """Memory of the fullest rank; of states alone, if they do not fit."""
        tensor, world = run.parallel.tensor, run.cluster.nodes * run.cluster.devices_per_node
        states = model_states(count.parameters / tensor, run.parallel, run.train, world // tensor, count.block / tensor).total
        states = (states + (software_bytes(run.parallel, world) if run.cluster.trains_on == "gpu" else 0)) / GIB
        if states > run.cluster.memory_gib:
            return states
        one, two = self._activations(run)
        return states + (one + (run.train.micro_batch - 1) * (two - one)) / GIB

    def _activations(self, run: PretrainRun) -> tuple[float, float]:
        kind = run.parallel.model_copy(update={"zero_stage": 3}), run.train.compile  # ZeRO changes none
        if kind not in self._known:
            one, two = (_changed(run, {}, size, run.train.compile) for size in (1, 2))
            self._known[kind] = activation_bytes(one), activation_bytes(two)
        return self._known[kind]


def _best(settings: PretrainRun, nodes: int, count: Counts, memory: Memory) -> Candidate | None:
    """The fastest setting that fits on this many nodes, or None."""
    runs = [(predict(run, count), run) for run in _settings(settings, nodes)]
    refused = False
    for prediction, run in sorted(runs, key=lambda pair: pair[0].step_s):
        total = memory.total_gib(run, count)
        if total <= (1 - LEFT_FREE) * run.cluster.memory_gib:
            return Candidate(run, prediction, total, "memory" if refused else prediction.longest)
        refused = True
    return None


def _settings(settings: PretrainRun, nodes: int) -> Iterator[PretrainRun]:
    """Every setting that the trainer can run on this many nodes."""
    cluster = settings.cluster.model_copy(update={"nodes": nodes})
    stages = [stage for stage in (1, 2, 3) if nodes * cluster.devices_per_node > 1 or stage == 1]
    for layout in _layouts(settings):
        data_ranks, rest = divmod(nodes * cluster.devices_per_node, layout.parallel.tensor * layout.parallel.context)
        if rest or settings.train.global_batch % data_ranks:
            continue
        rows = settings.train.global_batch // data_ranks
        for micro_batch in (size for size in range(1, min(rows, _MOST_MICRO_BATCH) + 1) if rows % size == 0):
            for stage in stages:
                for recompute in get_args(Recompute):
                    parallel = {"zero_stage": stage, "activation_checkpointing": recompute}
                    for compiled in (False, True):
                        yield _changed(layout, parallel, micro_batch, compiled).model_copy(update={"cluster": cluster})


def _layouts(settings: PretrainRun) -> Iterator[PretrainRun]:
    """The run with every split of its matrices, heads and slots within a node that its shape allows."""
    sizes = [1 << power for power in range(settings.cluster.devices_per_node.bit_length())]
    for tensor in sizes:
        for context in sizes:
            for sequence in (False, True)[: 1 + (tensor > 1)]:
                content = settings.model_dump()
                content["parallel"] |= {"tensor": tensor, "context": context, "sequence": sequence}
                if tensor * context <= settings.cluster.devices_per_node:
                    try:
                        yield PretrainRun.model_validate(content)
                    except (ConfigError, ValidationError):  # heads, slots or matrices cannot be divided so
                        continue


def _changed(run: PretrainRun, parallel: dict[str, object], micro_batch: int, compiled: bool) -> PretrainRun:
    train = run.train.model_copy(update={"micro_batch": micro_batch, "compile": compiled})
    return run.model_copy(update={"train": train, "parallel": run.parallel.model_copy(update=parallel)})
