"""The first hour on a new machine: measures the step model's constants with the real engine, and holds the plan against it.

    hitvideo benchmark first-hour --run pretrain/7b.yaml --out my_cluster.yaml

Products and attention are timed alone. Python's time is that of a model too narrow to keep the device busy. What elementwise
kernels move follows from what a further layer adds to a step, less its products and attention; what traffic stays exposed, from
a step of ZeRO-3 with all ranks. `cluster.rates.far_latency_us` and `host_us_per_shard` show only on many nodes, and stay.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from hitvideo.llm.recompute import Recompute
from hitvideo.measuring.ceilings import copy_rate
from hitvideo.measuring.kernels import attention_efficiency, products
from hitvideo.measuring.links import gather_rate, latency_us
from hitvideo.measuring.steps import cut, narrow, step_peak, step_seconds
from hitvideo.parallel.topology import Topology, start
from hitvideo.planning.activations import activation_bytes
from hitvideo.planning.simulation.prediction import predict
from hitvideo.planning.simulation.run_work import Counts, run_work
from hitvideo.planning.simulation.step import Work, machine, step_time
from hitvideo.planning.traffic import NEAR_REACHED
from hitvideo.planning.zero import GIB, model_states
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.cluster import ClusterSection, RatesSection
from hitvideo.settings.programs import PretrainRun

_GATHERED = {"cuda": 200_000_000, "cpu": 1_000_000}  # bytes: those of a 7B model's block in half precision are 400 million
_NARROW_LAYERS = (2, 10)


@dataclass(frozen=True)
class Line:
    """One figure: by the plan with the constants as they were, and measured."""

    name: str
    unit: str
    planned: float | None
    measured: float


@dataclass(frozen=True)
class FirstHour:
    """What was measured."""

    device: str
    ranks: int
    cluster: ClusterSection
    """The run's cluster with the constants of this machine."""
    lines: tuple[Line, ...]

    def cluster_file(self) -> str:
        """A YAML for `base:` of a run file."""
        kept = self.cluster.model_dump(mode="json", exclude={"slurm"})
        made = f"# Measured on {datetime.date.today()}: {self.ranks} × {self.device}, torch {torch.__version__}."
        return f"{made}\n{yaml.safe_dump({'cluster': kept}, sort_keys=False)}"

    def text(self) -> str:
        """The plan against the measurement, line by line."""
        rows = [("", "planned", "measured", "measured / planned")]
        for line in self.lines:
            planned = "" if line.planned is None else f"{line.planned:,.4g} {line.unit}"
            ratio = f"{line.measured / line.planned:.2f}" if line.planned else ""
            rows.append((line.name, planned, f"{line.measured:,.4g} {line.unit}", ratio))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def run(settings: PretrainRun, out: Path | None, layers: int, show: Callable[[str], object] = print) -> FirstHour:
    """Join the ranks that torchrun started, or run alone; measure, show the table, and write the cluster file."""
    with start(tensor=1) as topology:
        found = measure(settings, topology, layers)
        if topology.rank == 0:
            show(found.text())
            if out:
                out.write_text(found.cluster_file())
                show(f"{out}: cluster section with these constants; put it last in `base` of a run")
    return found


def measure(settings: PretrainRun, topology: Topology, layers: int) -> FirstHour:
    """Measure on all ranks of the topology with models of `layers` and of twice as many."""
    device, before, slots = topology.device, settings.cluster.rates, make_layout(settings).length - 1
    product = products(settings, slots, device)
    attended, forward, backward = attention_efficiency(settings, slots, device)
    rates: dict[str, float] = {
        "gemm_efficiency": product.efficiency, "gemm_narrow": product.narrow, "attention_efficiency": attended,
        "attention_gain": 1.0,
    }  # fmt: skip
    lines = [
        Line("products, share of the peak", "", before.gemm_efficiency, product.efficiency),
        Line("attention, share of the peak", "", before.attention_efficiency * before.attention_gain, attended),
        Line("attention forward, one layer", "ms", None, 1e3 * forward),
        Line("attention backward, one layer", "ms", None, 1e3 * backward),
        Line("copy in memory, read and written", "GB/s", settings.cluster.memory_gbs, copy_rate(device) / 1e9),
    ]
    cluster: dict[str, float] = {}
    if topology.world > 1:
        gathered, latency = gather_rate(_GATHERED[device.type], device), latency_us(device)
        one_node = topology.world <= settings.cluster.devices_per_node
        reached = settings.cluster.near_gbs * NEAR_REACHED if one_node else None
        lines.append(Line("gather over all ranks", "GB/s", reached, gathered / 1e9))
        if one_node:
            cluster["near_gbs"], rates["near_latency_us"] = gathered / 1e9 / NEAR_REACHED, latency
    per_step, per_layer = _python(settings, topology)
    rates |= {"host_ms_per_step": 1e3 * per_step, "host_ms_per_layer": 1e3 * per_layer}
    lines += [Line(name, "ms", getattr(before, name), rates[name]) for name in ("host_ms_per_step", "host_ms_per_layer")]
    measured = settings.cluster.model_copy(update=cluster)

    def with_rates(run: PretrainRun, **found: float) -> PretrainRun:
        section = measured.model_copy(update={"rates": before.model_copy(update=rates | found)})
        same = {"nodes": run.cluster.nodes, "devices_per_node": run.cluster.devices_per_node}
        return run.model_copy(update={"cluster": section.model_copy(update=same)})

    short, long = (cut(settings, topology, number, zero_stage=1) for number in (layers, 2 * layers))
    taken = [step_seconds(each, topology) for each in (short, long)]
    planned = [_seconds(with_rates(long, elementwise=x)) - _seconds(with_rates(short, elementwise=x)) for x in (1.0, 2.0)]
    if (times := moved(taken[1] - taken[0], *planned)) is not None:
        rates["elementwise"] = times
        lines.append(Line("elementwise, in units of moving each tensor once", "", before.elementwise, times))
    if topology.world > 1:
        sharded = cut(settings, topology, 2 * layers, zero_stage=3)
        rates["overlap"] = overlap(with_rates(sharded), step_seconds(sharded, topology))
        lines.append(Line("overlap of ZeRO's traffic", "", before.overlap, rates["overlap"]))
    lines.append(Line(f"step with {2 * layers} layers", "s", predict(long).step_s, taken[1]))
    lines.append(Line("… with the measured constants", "s", predict(with_rates(long)).step_s, taken[1]))
    if settings.train.compile:
        compiled = cut(settings, topology, 2 * layers, compiled=True, zero_stage=1)
        lines.append(Line("… and compiled", "s", predict(with_rates(compiled)).step_s, step_seconds(compiled, topology)))
    for mode in get_args(Recompute):
        case = cut(settings, topology, layers, settings.train.compile, zero_stage=1, activation_checkpointing=mode)
        peaks = _peak(case) / GIB, step_peak(case, topology) / GIB
        lines.append(Line(f"peak of {layers} layers, {mode}", "GiB", *peaks))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    made = measured.model_copy(update={"rates": RatesSection(**before.model_dump() | rates)})
    return FirstHour(name, topology.world, made, tuple(lines))


def _python(settings: PretrainRun, topology: Topology) -> tuple[float, float]:
    """Seconds of Python for a step and for each layer, from two models too narrow to keep a GPU busy."""
    few, many = _NARROW_LAYERS
    thin = narrow(settings)
    taken = [step_seconds(cut(thin, topology, number, zero_stage=1), topology) for number in (few, many)]
    each = max(taken[1] - taken[0], 0.0) / (many - few)
    return max(taken[0] - few * each, 0.0), each


def _peak(settings: PretrainRun) -> float:
    """Planned bytes of a step above the states between steps: gradients, and in turn activations and the copy, end to end,
    of the gradients that this rank's optimizer takes.
    """
    parameters, cluster = Counts(settings).parameters, settings.cluster
    states = model_states(parameters, settings.parallel, settings.train, cluster.nodes * cluster.devices_per_node)
    return states.gradients + max(activation_bytes(settings), states.masters)


def _work(settings: PretrainRun) -> Work:
    return run_work(settings, Counts(settings))


def _seconds(settings: PretrainRun) -> float:
    return step_time(_work(settings), machine(settings.cluster)).total


def overlap(settings: PretrainRun, taken: float) -> float:
    """The share of ZeRO's traffic that costs nothing, so that the step model gives the measured time; between 0 and 1."""
    work, device = _work(settings), machine(settings.cluster)
    times = []
    for share in (0.0, 1.0):
        rates = device.rates.model_copy(update={"overlap": share})
        times.append(step_time(work, replace(device, rates=rates)).total)
    exposed, hidden = times
    return min(max((exposed - taken) / (exposed - hidden), 0.0), 1.0) if exposed > hidden else 1.0


def moved(taken: float, once: float, twice: float) -> float | None:
    """Memory traffic of elementwise kernels in units of moving each tensor once, at least 1.

    `taken`: seconds that a long step takes more than a short one; and the same as predicted for a traffic of 1 and of 2.
    None if these do not differ, because the device waits for Python: the traffic then cannot be told.
    """
    return max(1 + (taken - once) / (twice - once), 1.0) if twice > once else None


def figures(found: FirstHour) -> dict[str, Any]:
    """For JSON."""
    lines = {line.name: {"planned": line.planned, "measured": line.measured, "unit": line.unit} for line in found.lines}
    content: dict[str, Any] = json.loads(found.cluster.model_dump_json(exclude={"slurm"}))
    return {"device": found.device, "ranks": found.ranks, "lines": lines, "cluster": content}
