"""What a node's pre-flight finds, on this machine and on broken ones."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from hitvideo.cluster import checks, preflight


def run(folder: Path) -> dict[str, object]:
    assert preflight.main(folder, 1) == 0
    found: dict[str, object] = json.loads((folder / f"{socket.gethostname().split('.')[0]}.json").read_text())
    return found


def test_this_machine_is_fit(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found["faults"] == []
    assert found["versions"]["torch"].startswith("2.")  # type: ignore[index]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "nothing is left behind"


def test_every_fault_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(checks, "_SHARED_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert preflight.main(tmp_path, 8) == 0
    (path,) = tmp_path.glob("*.json")
    faults = json.loads(path.read_text())["faults"]
    assert len(faults) == 2
    assert faults[0].startswith("shared memory: FileNotFoundError")
    assert faults[1] == "devices: RuntimeError: 1 of 8 GPUs are visible"
