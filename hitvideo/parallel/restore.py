"""Checkpoints that any layout can read: every rank writes its fragments, every rank reads what it needs of all of them.

    checkpoints/step-00000100/
        rank-00000.safetensors     this rank's fragments: NAME@OFFSET/STATE → 1-D fp32
        rank-00000.json            which they are, the tensor-parallel rank they belong to, size and sha256 of the above
        state.json                 step, full shapes, fingerprint, what the job remembers, sizes and sha256 of all; last

A half-written one is never chosen, for it gets its name by one rename (`saver.py`), nor is a damaged one: `newest` reads
every file's checksum, divided over the ranks. There is no RNG state to save, because nothing draws from a hidden one: data
order, dropout and schedule are functions of the step.

Why a format of our own. *torch.distributed.checkpoint* reshards, saves asynchronously and is well kept, but it has to be
told of every tensor as a DTensor or a plain whole one: ZeRO's flat buffers are neither, and its `.distcp` files are pickles
that only a program with torch's planner can read. *DeepSpeed's universal format* resumes a client's tensor parallelism only
through metadata set on private attributes, after an offline conversion that needs all the memory at once and is wrong,
without an error, where the metadata are missing. What is left to do by hand is one mapping, fragments.py, and it gives
files that any safetensors reader opens. The price: ours alone to maintain, and tied to where DeepSpeed keeps its buffers,
which the resume tests would show at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from hitvideo.config import ConfigError
from hitvideo.llm.init import full_shape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import AVERAGE, WEIGHT, adam_states, buffers, fragments, refresh_weights

log = logging.getLogger(__name__)
FORMAT = 1


def load(path: Path, engine: Engine, fingerprint: str) -> int:
    """Read a checkpoint of any layout into this one; returns the number of steps behind it.

    How a parameter is divided here is the present model's affair: a checkpoint of one process divides nothing.
    """
    reader = Reader(path)
    found = reader.state["fingerprint"]
    if found != fingerprint:
        raise ConfigError(f"{path} is a checkpoint of other settings or data (fingerprint {found}, ours {fingerprint})")
    topology, live, ours = engine.topology, buffers(engine), shapes(engine)
    for name, (shape, _dim) in ours.items():
        if reader.shape(name) != shape:
            raise ConfigError(f"{path}: {name} has shape {reader.shape(name)}, the run's model has {shape}")
    for fragment in fragments(engine):
        division = Division(ours[fragment.name][1], topology.tensor)
        for kind, view in fragment.of(live).items():
            # An average that the checkpoint does not have starts from its weights.
            source = WEIGHT if kind == AVERAGE and not reader.averaged else kind
            held = reader.part(fragment.name, source, division, topology.tensor_rank, fragment.offset, fragment.length)
            view.copy_(held)
    for state in adam_states(engine):
        state["step"].fill_(reader.state["adam_step"])
    refresh_weights(engine)
    return int(reader.state["step"])


def newest(directory: Path, engine: Engine) -> Path | None:
    """The newest checkpoint that is whole by its checksums; all ranks together, each reading its share of the files."""
    topology, found = engine.topology, complete(directory)
    for path in reversed(found):
        fault = damage(path, topology.rank, topology.world)
        if fault:
            log.warning("%s is passed over: %s", path, fault)
        if not engine.any(fault is not None)[0]:
            return path
    if found:
        raise ConfigError(f"{directory}: all {len(found)} checkpoints are damaged; remove the directory to start over")
    return None


def damage(path: Path, reader: int = 0, readers: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, of which this reader looks at every `readers`-th; None: nothing."""
    try:
        state = Reader(path).state
    except ConfigError as error:
        return str(error)
    for name, (size, digest) in sorted(state.get("files", {}).items())[reader::readers]:
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size or sha256(file) != digest:
            return f"{name} is not as it was written (sha256)"
    return None


def complete(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = directory.glob("step-*") if directory.is_dir() else iter(())
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and (path / "state.json").is_file())


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


class Division(NamedTuple):
    """How tensor-parallel ranks divide a parameter: along `dim`, or not at all (-1)."""

    dim: int
    ranks: int


class Reader:
    """The tensors of a checkpoint, whole or in part, on one CPU. Needs no process group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = read_json(path / "state.json")
        if self.state.get("format") != FORMAT:
            raise ConfigError(f"{path}: checkpoint format {self.state.get('format')}, this version reads {FORMAT}")
        if "sha256" in self.state and self.state["sha256"] != digest(self.state):
            raise ConfigError(f"{path}: damaged checkpoint: state.json is not as it was written (sha256)")
        self._files: dict[Path, Any] = {}
        self._where: dict[str, list[tuple[int, int, int, Path]]] = {}
        for rank in range(self.state["world"]):
            stem = path / f"rank-{rank:05d}"
            listing = read_json(stem.with_suffix(".json"))
            for entry in listing["fragments"]:
                where = (listing["tensor_rank"], entry["offset"], entry["length"], stem.with_suffix(".safetensors"))
                self._where.setdefault(entry["name"], []).append(where)

    @property
    def names(self) -> list[str]:
        return list(self.state["parameters"])

    @property
    def averaged(self) -> bool:
        """Whether the run keeps a moving average of its weights."""
        return bool(self.state.get("averaged", False))

    def shape(self, name: str) -> list[int]:
        """Of the undivided parameter."""
        if name not in self.state["parameters"]:
            raise ConfigError(f"{self.path}: has no parameter '{name}'; it is a checkpoint of another model")
        shape: list[int] = self.state["parameters"][name][0]
        return shape

    def full(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """A parameter's undivided weight, Adam moment or average."""
        shape, written = self.shape(name), self._written(name)
        share = [size // written.ranks if axis == written.dim else size for axis, size in enumerate(shape)]
        numel = torch.Size(share).numel()
        parts = [self._share(name, kind, rank, 0, numel).view(share) for rank in range(written.ranks)]
        return torch.cat(parts, max(written.dim, 0))

    def part(self, name: str, kind: str, division: Division, rank: int, offset: int, length: int) -> torch.Tensor:
        """Elements offset … offset + length of the flattened share that a tensor-parallel rank has in this division.

        Only what is asked for is read, but for a matrix divided otherwise along its second dimension, which is read whole.
        """
        written, numel = self._written(name), torch.Size(self.shape(name)).numel()
        if division.dim <= 0 and written.dim <= 0:  # both cut the flattened parameter into runs
            first = (rank * (numel // division.ranks) if division.dim == 0 else 0) + offset
            each, found = numel // written.ranks, []
            for number in range(first // each, (first + length - 1) // each + 1):
                start, stop = max(first, number * each), min(first + length, (number + 1) * each)
                found.append(self._share(name, kind, number, start - number * each, stop - start))
            return torch.cat(found)
        if division == written:
            return self._share(name, kind, rank, offset, length)
        whole = self.full(name, kind)
        share = whole if division.dim < 0 else whole.chunk(division.ranks, division.dim)[rank]
        return share.flatten()[offset : offset + length]

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Every undivided weight, averaged where the run averages: what `weights/` is exported from."""
        for name in self.names:
            yield name, self.full(name, AVERAGE if self.averaged else WEIGHT).to(dtype)

    def _written(self, name: str) -> Division:
        dim = self.state["parameters"][name][1]
        return Division(dim, self.state["tensor"] if dim >= 0 else 1)

    def _share(self, name: str, kind: str, rank: int, offset: int, length: int) -> torch.Tensor:
        flat, filled = torch.empty(length), 0
        for tensor_rank, start, count, file in self._where[name]:
            first, last = max(offset, start), min(offset + length, start + count)
            if first < last and tensor_rank == rank:
                piece = self._open(file).get_slice(f"{name}@{start}/{kind}")[first - start : last - start]
                flat[first - offset : last - offset] = piece
                filled += last - first
        assert filled == length, f"{self.path}: {filled} of {length} elements of {name}"
        return flat

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            try:
                self._files[file] = safe_open(file, framework="pt")
            except (OSError, SafetensorError) as error:
                mend = f"remove {self.path} to resume from the one before"
                raise ConfigError(f"{file}: damaged checkpoint: {error}; {mend}") from error
        return self._files[file]


def shapes(engine: Engine) -> dict[str, Any]:
    """name → [full shape, divided dimension or -1]. ZeRO-3 empties parameters, but remembers their shape."""
    tensor = engine.topology.tensor
    found = {}
    for name, parameter in engine.model.named_parameters():
        full, dim = full_shape(parameter, tensor, getattr(parameter, "ds_shape", parameter.shape))
        found[name] = [list(full), dim]
    return found


def digest(state: dict[str, Any]) -> str:
    """sha256 of state.json's content beside its digest."""
    content = {key: value for key, value in state.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Appears whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged checkpoint: {error}") from error
