"""A damaged checkpoint is skipped; a hostile one, with checksums to match, is refused by name or read right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hitvideo.checkpoints.listing import INDEX_FILE, STATE_FILE, damage, newest, state_digest
from hitvideo.checkpoints.reader import Division, Reader
from hitvideo.errors import ConfigError
from hitvideo.files import sha256
from tests.checkpoints.written import DIVIDED, write_checkpoint
from tests.fuzz import is_refused, mutations

WEIGHTS = {"rows": torch.arange(40.0).view(8, 5), "columns": torch.arange(36.0).view(3, 12), "norm": torch.ones(7)}
FILES = [STATE_FILE, INDEX_FILE, "rank-00000.json", "rank-00003.safetensors"]
COUNTS = [pytest.param(40), pytest.param(1000, marks=pytest.mark.slow)]


def sealed(path: Path) -> None:
    """Make all checksums of a checkpoint right, as somebody would who means harm."""
    try:
        state = json.loads((path / STATE_FILE).read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(state, dict):
        if isinstance(state.get("files"), dict):
            state["files"] |= {f.name: [f.stat().st_size, sha256(f)] for f in path.glob("rank-*")}
        if "index" in state and (path / INDEX_FILE).is_file():
            state["index"] = [(path / INDEX_FILE).stat().st_size, sha256(path / INDEX_FILE)]
        (path / STATE_FILE).write_text(json.dumps({**state, "sha256": state_digest(state)}))


def read_all(path: Path) -> None:
    """What export and restore read, each result of the shape that state.json promises."""
    reader = Reader(path)
    for name, tensor in reader.weights(torch.float32):
        assert list(tensor.shape) == reader.shape(name)
    for name, whole in WEIGHTS.items():
        if reader.shape(name) == list(whole.shape):
            assert len(reader.part(name, "fp32", Division(-1, 1), 0, 1, 5)) == 5
            assert len(reader.part(name, "fp32", Division(DIVIDED[name], 1), 0, 1, 5)) == 5


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("file", FILES)
def test_any_change_of_a_file_is_found_and_a_hostile_one_survived(
    tmp_path: Path, file: str, count: int, record_property: Callable[[str, Any], None]
) -> None:
    path = write_checkpoint(tmp_path / "step-00000001", WEIGHTS, 2, 2, indexed=file != "rank-00000.json")
    read_all(path)
    state, whole = (path / STATE_FILE).read_bytes(), (path / file).read_bytes()
    refused = 0
    for changed in mutations(whole, count, seed=0):
        (path / STATE_FILE).write_bytes(state)
        (path / file).write_bytes(changed)
        if damage(path) is None:  # only spaces changed, or the digest is gone, which older versions did not write
            found = json.loads(changed)
            assert found == json.loads(state) or "sha256" not in found
        else:
            with pytest.raises(ConfigError, match="all 1 checkpoints are damaged"):
                newest(tmp_path)
        sealed(path)
        refused += is_refused(lambda: read_all(path))
    record_property("mutations", count)
    assert refused > count / 4


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "world": lambda state: state.update(world=10**12),
    "tensor": lambda state: state.update(tensor=0),
    "true": lambda state: state.update(world=True),
    "shape": lambda state: state["parameters"].update(rows=[[10**6, 10**6], 0]),
    "negative": lambda state: state["parameters"].update(rows=[[-8, -5], 0]),
    "dimension": lambda state: state["parameters"].update(rows=[[8, 5], 7]),
    "undivided": lambda state: state["parameters"].update(norm=[[7], 0]),
    "nested": lambda state: state["parameters"].update(rows=[[[8], 5], 0]),
    "lost": lambda state: state["parameters"].update(lost=[[4], -1]),
    "path": lambda state: state.update(files={"../../../etc/passwd": [1, ""]}),
    "types": lambda state: state.update(files=[1]),
    "step": lambda state: state.update(step="1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_is_refused(tmp_path: Path, name: str) -> None:
    path = write_checkpoint(tmp_path / "step-00000001", WEIGHTS, 2, 2)
    state = json.loads((path / STATE_FILE).read_text())
    HOSTILE[name](state)
    (path / STATE_FILE).write_text(json.dumps({**state, "sha256": state_digest(state)}))
    assert is_refused(lambda: read_all(path), seconds=5, mib=256)


@pytest.mark.parametrize("entry", [{"length": 10**12}, {"offset": 10**12}, {"offset": -1}, {"name": 3}, {"length": 0}])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_hostile_listing_is_refused(tmp_path: Path, entry: dict[str, Any], indexed: bool) -> None:
    path = write_checkpoint(tmp_path / "step-00000001", WEIGHTS, 1, 1, indexed)
    file = path / (INDEX_FILE if indexed else "rank-00000.json")
    listing = json.loads(file.read_text())
    (listing["ranks"][0] if indexed else listing)["fragments"][0] |= entry
    file.write_text(json.dumps(listing))
    assert is_refused(lambda: read_all(path), seconds=5, mib=256)
