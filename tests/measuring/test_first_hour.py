"""The measured constants: each is the inverse of the step model, and a whole first hour on a small model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hitvideo import config
from hitvideo.measuring.first_hour import FirstHour, figures, moved, overlap, run
from hitvideo.measuring.kernels import fitted
from hitvideo.measuring.timing import in_turn, peak_bytes
from hitvideo.planning.simulation.prediction import predict
from hitvideo.planning.simulation.run_work import Counts, run_work
from hitvideo.planning.simulation.step import machine, step_time
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT
from tests.worlds import run_ranks

CPU = torch.device("cpu")
TINY = ["llm.layers=2", "train.micro_batch=1", "parallel.bucket=1000", "llm.ancestors=false", "cluster.memory_gbs=20"]


def settings(name: str, *words: str) -> PretrainRun:
    return load_settings_as(PretrainRun, ROOT / f"yaml_configs/pretrain/{name}.yaml", words)


@pytest.mark.parametrize(("efficiency", "narrow"), [(0.7, 96.0), (0.4, 0.0), (0.95, 1000.0)])
def test_products_give_back_the_constants(efficiency: float, narrow: float) -> None:
    peak = 1e15
    per_flop = {side: (1 + narrow / side) / (peak * efficiency) for side in (512, 4096)}
    assert fitted(per_flop, peak) == pytest.approx((efficiency, narrow))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_overlap_gives_back_the_constant(share: float) -> None:
    run = settings("7b", "parallel.zero_stage=3", f"cluster.rates.overlap={share}")
    assert overlap(run, predict(run).step_s) == pytest.approx(share, abs=1e-6)
    assert overlap(run, 100 * predict(run).step_s) == 0, "no step is slower than without any overlap"


def test_elementwise_gives_back_the_constant() -> None:
    """Of two steps whose layers differ, as predicted with 3.5 times the traffic of fused kernels."""
    runs = [
        settings("1b", f"llm.layers={layers}", "train.compile=false", "cluster.rates.host_ms_per_layer=0") for layers in (2, 4)
    ]
    works = [run_work(run, Counts(run)) for run in runs]
    device = machine(runs[0].cluster)

    def further(factor: float) -> float:
        rates = device.rates.model_copy(update={"elementwise": factor})
        short, long = (step_time(work, replace(device, rates=rates)).total for work in works)
        return long - short

    assert moved(further(3.5), further(1), further(2)) == pytest.approx(3.5)
    assert moved(0, further(1), further(2)) == 1, "no kernel moves less than each tensor once"
    assert moved(1, 2, 2) is None, "the device waits for Python"


def test_calls_take_turns() -> None:
    called: list[str] = []
    taken = in_turn({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, CPU, rounds=3)
    assert called == ["a", "b"] * 4
    assert taken.keys() == {"a", "b"}


def test_peak_bytes() -> None:
    """Two tensors of a MiB, of which one is dropped before a third is made."""

    def call() -> None:
        first, second = torch.empty(1 << 20, dtype=torch.uint8), torch.empty(1 << 20, dtype=torch.uint8)
        del first
        third = torch.empty(1 << 19, dtype=torch.uint8)
        del second, third

    assert peak_bytes(call, CPU) == 2 << 20


def check(found: FirstHour, out: Path, run: PretrainRun) -> None:
    """What was found is finite, is in the file, and can be planned with."""
    for line in found.lines:
        assert math.isfinite(line.measured), line.name
        assert line.measured >= 0, line.name
    again = ClusterSection.model_validate(config.resolve(out)["cluster"])
    assert again.rates == found.cluster.rates
    assert predict(run.model_copy(update={"cluster": again})).step_s > 0
    assert figures(found)["lines"].keys() == {line.name for line in found.lines}
    assert {line.name for line in found.lines if line.planned} <= {row.split("  ")[0] for row in found.text().splitlines()}


def hour(run_: PretrainRun, out: Path, layers: int) -> FirstHour:
    return run(run_, out, layers, lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_first_hour(world: int, tmp_path: Path) -> None:
    """Measured peaks are near the planned ones, and mostly below: gradients come while activations go."""
    run = settings("tiny", *TINY, f"cluster.devices_per_node={world}", f"train.global_batch={2 * world}")
    out = tmp_path / "cluster.yaml"
    found = run_ranks(hour, world, run, out, 2)[0]
    check(found, out, run)
    assert found.ranks == world
    names = {line.name for line in found.lines}
    assert ("gather over all ranks" in names) == (world > 1)
    if world == 1:
        for line in (line for line in found.lines if line.name.startswith("peak")):
            assert line.planned is not None
            assert 0.7 < line.measured / line.planned < 1.2, line.name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_first_hour_on_a_gpu(tmp_path: Path) -> None:
    run = settings("1b", "train.micro_batch=1")
    out = tmp_path / "cluster.yaml"
    check(hour(run, out, 2), out, run)
