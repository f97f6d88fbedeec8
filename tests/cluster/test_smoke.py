"""The verdict on the first job of a cluster, from what the job left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hitvideo.cluster import smoke
from hitvideo.config import to_yaml
from hitvideo.settings.programs import load_settings
from tests.conftest import ROOT


def rows(first: int, last: int) -> str:
    return "".join(json.dumps({"step": step, "loss": 1.0, "seconds": 0.1}) + "\n" for step in range(first, last + 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a job of two nodes with two ranks each leaves if all went well."""
    run = tmp_path / "run"
    (run / "attempts/7.0").mkdir(parents=True)
    for host in ("n1", "n2"):
        hardware, wiring = {"GPUs": "2", "GPU": "NVIDIA H100 80GB HBM3"}, {"network ports": "2 × ACTIVE 400 Gb/sec"}
        report = {"faults": [], "versions": {}, "hardware": hardware, "wiring": wiring}
        (run / f"attempts/7.0/{host}.json").write_text(json.dumps(report))
    ranks = [{"rank": rank, "host": f"n{rank // 2 + 1}", "seconds": 0.1} for rank in range(4)]
    (run / "meeting.json").write_text(json.dumps({"all_reduce_mib": 256, "all_reduce_seconds": 0.005, "ranks": ranks}))
    words = ["cluster.devices=gpu", "cluster.near_gbs=450", "cluster.nic_gbs=50"]
    (run / "config.yaml").write_text(to_yaml(load_settings(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml", words)))
    (tmp_path / "before.jsonl").write_text(rows(1, 10))
    (run / "metrics.jsonl").write_text(rows(1, 20))
    (run / "DONE").write_text("20\n")
    return tmp_path


def bad(folder: Path) -> list[str]:
    return [name for name, (good, _) in smoke.findings(folder, 2, 2).items() if not good]


def test_all_is_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main([str(folder), "2", "2"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "smoke: PASSED"
    assert "2 × NVIDIA H100 80GB HBM3" in said
    assert "80.5 GB/s of 100 " in said, "2 · 3/4 · 256 MiB in 5 ms; two ranks a node with 50 GB/s each"


def test_a_job_that_never_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main([str(tmp_path), "2", "2"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "smoke: FAILED: nodes, ranks, training, resuming"


def test_each_thing_that_can_fail_is_named(folder: Path) -> None:
    run = folder / "run"
    (run / "DONE").unlink()
    assert bad(folder) == ["training"]
    (run / "metrics.jsonl").write_text(rows(1, 20).replace("0.1", "0.2"))
    assert bad(folder) == ["training", "resuming"], "it began again"
    (run / "attempts/7.0/n2.json").write_text(json.dumps({"faults": ["devices: 0 of 2 GPUs"], "versions": {}}))
    assert bad(folder) == ["nodes", "wiring", "training", "resuming"], "it does not say how it is wired"


def test_a_node_that_is_wired_unlike_the_other_is_named(folder: Path) -> None:
    path = folder / "run/attempts/7.0/n2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wiring": {"network ports": "1 × ACTIVE 400 Gb/sec, 1 × DOWN"}}))
    assert bad(folder) == ["wiring"]
    assert "n2" in smoke.findings(folder, 2, 2)["wiring"][1]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0134, []), (0.0135, ["all-reduce"])])
def test_a_slow_link_is_named(folder: Path, seconds: float, expected: list[str]) -> None:
    """At 30 % of 100 GB/s, 402.65 MB take 13.42 ms."""
    path = folder / "run/meeting.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"all_reduce_seconds": seconds}))
    assert bad(folder) == expected


def test_a_second_start_from_the_beginning_is_named(folder: Path) -> None:
    """The file is only appended to: the first start's rows are still there, but undone."""
    with (folder / "run/metrics.jsonl").open("a") as file:
        file.write('{"rollback_to": 0, "time": 1.0, "attempt": 2}\n' + rows(1, 20).replace("0.1", "0.2"))
    assert bad(folder) == ["resuming"]
