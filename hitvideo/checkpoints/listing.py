"""The checkpoints of a run: which are complete, which is the newest, which are damaged. No torch.

    checkpoints/step-00000100/
        rank-00000.safetensors     this rank's fragments: NAME@OFFSET/STATE → 1-D fp32
        rank-00000.json            the list of fragments, the tensor-parallel rank, size and sha256 of the file above
        index.json                 the lists of all ranks in one file: a reader opens 2 files, not as many as there were ranks
        state.json                 step, consumed samples, full shapes, fingerprint, the task's own state; sizes and sha256 of
                                   all files

A checkpoint gets its name by one rename when it is complete (hitvideo/parallel/save.py), so an unfinished one is never
chosen. Its checksums show a damaged one, which is skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hitvideo.errors import ConfigError
from hitvideo.files import read_json, sha256

log = logging.getLogger(__name__)
FORMAT = 1
STATE_FILE = "state.json"
INDEX_FILE = "index.json"
"""Older checkpoints have none. Its size and sha256 stand apart from those of other files, so that older versions still read
newer checkpoints."""


class Fingerprint(NamedTuple):
    """What the checkpoints of a run must share besides the settings, which config.yaml holds: their data."""

    data: str
    """Of the data; what new checkpoints hold."""
    former: str
    """Of the data and some settings; what older checkpoints hold."""

    def fits(self, state: dict[str, Any]) -> bool:
        """Whether a checkpoint with this state.json was trained on these data."""
        return state.get("fingerprint") in self


def complete(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = directory.glob("step-*") if directory.is_dir() else iter(())
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and (path / STATE_FILE).is_file())


def step_of(path: Path) -> int:
    """The number of steps behind a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises ConfigError if it is missing, damaged or of another format.

    What is returned has the right types: sizes are whole numbers, names of files are plain.
    """
    state = read_json(path / STATE_FILE, "checkpoint")
    if state.get("format") != FORMAT:
        raise ConfigError(f"{path}: checkpoint format {str(state.get('format'))[:200]}, this version reads {FORMAT}")
    if "sha256" in state and state["sha256"] != state_digest(state):
        raise ConfigError(f"{path}: damaged checkpoint: {STATE_FILE} is not as it was written (sha256)")
    if fault := _fault(state):
        raise ConfigError(f"{path}: damaged checkpoint: {STATE_FILE}: {fault}")
    return state


def whole(*values: Any, least: int = 0) -> bool:
    """Whether all values are integers of at least `least` (and not true or false)."""
    return all(type(value) is int and value >= least for value in values)


def _fault(state: dict[str, Any]) -> str | None:
    """What cannot be in a state.json."""
    world, tensor, parameters, files = (state.get(key, 0) for key in ("world", "tensor", "parameters", "files"))
    if not whole(state.get("step"), state.get("adam_step", 0), state.get("samples", 0)):
        return "step, samples and adam_step must be whole numbers"
    if not whole(world, tensor, least=1) or world % tensor:
        return "world must be a multiple of tensor"
    if not isinstance(parameters, dict) or not all(_is_shape(entry, tensor) for entry in parameters.values()):
        return "parameters must have a shape and a dimension that `tensor` divides"
    if files and (not isinstance(files, dict) or not all(_is_file(*item) for item in files.items())):
        return "files must have a size and a sha256"
    if "index" in state and not _is_sum(state["index"]):
        return "index must have a size and a sha256"
    return None


def _is_shape(entry: Any, tensor: int) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], list):
        return False
    shape, dim = entry
    return whole(*shape, least=1) and whole(dim, least=-1) and (dim == -1 or (dim < len(shape) and shape[dim] % tensor == 0))


def _is_file(name: str, entry: Any) -> bool:
    return re.fullmatch(r"rank-\d{5,}\.(json|safetensors)", name) is not None and _is_sum(entry)


def _is_sum(entry: Any) -> bool:
    size, digest = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    return whole(size) and isinstance(digest, str)


def state_digest(state: dict[str, Any]) -> str:
    """sha256 of state.json's content without the digest itself."""
    content = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def damage(path: Path, reader: int = 0, readers: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, of which this reader checks every `readers`-th; None: nothing."""
    try:
        state = read_state(path)
    except ConfigError as error:
        return str(error)
    sums = {**(state.get("files") or {}), **({INDEX_FILE: state["index"]} if "index" in state else {})}
    for name, (size, digest) in sorted(sums.items())[reader::readers]:
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size or sha256(file) != digest:
            return f"{name} is not as it was written (sha256)"
    return None


def newest(directory: Path, damage_of: Callable[[Path], str | None] = damage) -> Path | None:
    """The newest complete checkpoint that is not damaged; None if there is none at all.

    `damage_of`: another way to find damage, as by ranks that share the reading. Raises ConfigError if all are damaged.
    """
    found = complete(directory)
    for path in reversed(found):
        fault = damage_of(path)
        if fault is None:
            return path
        log.warning("checkpoint %s is skipped: %s", path, fault)
    if found:
        raise ConfigError(f"{directory}: all {len(found)} checkpoints are damaged; remove the directory to start over")
    return None
