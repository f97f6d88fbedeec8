"""The checkpoints of a run: which are complete, which is the newest, which are damaged. No torch.

    checkpoints/step-00000100/
        rank-00000.safetensors     this rank's fragments: NAME@OFFSET/STATE → 1-D fp32
        rank-00000.json            the list of fragments, the tensor-parallel rank, size and sha256 of the file above
        state.json                 step, full shapes, fingerprint, the task's own state, sizes and sha256 of all files

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
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.files import read_json, sha256

log = logging.getLogger(__name__)
FORMAT = 1
STATE_FILE = "state.json"


def complete(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = directory.glob("step-*") if directory.is_dir() else iter(())
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and (path / STATE_FILE).is_file())


def step_of(path: Path) -> int:
    """The number of steps behind a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises ConfigError if it is missing, damaged or of another format."""
    state: dict[str, Any] = read_json(path / STATE_FILE, "checkpoint")
    if state.get("format") != FORMAT:
        raise ConfigError(f"{path}: checkpoint format {state.get('format')}, this version reads {FORMAT}")
    if "sha256" in state and state["sha256"] != state_digest(state):
        raise ConfigError(f"{path}: damaged checkpoint: {STATE_FILE} is not as it was written (sha256)")
    return state


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
    for name, (size, digest) in sorted(state.get("files", {}).items())[reader::readers]:
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
