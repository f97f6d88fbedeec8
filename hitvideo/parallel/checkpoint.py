"""Checkpoints that any layout can read: every rank writes its fragments, every rank reads what it needs of all of them.

    checkpoints/step-00000100/
        rank-00000.safetensors     this rank's fragments: NAME@OFFSET/STATE → 1-D fp32
        rank-00000.json            which they are, and the tensor-parallel rank they belong to
        state.json                 step, full shapes, fingerprint, what the job remembers; written last

A checkpoint is written beside (`.partial`) and completed by one rename, so a half-written one is never chosen. DeepSpeed's
own checkpoints do not fit: they load on the layout that wrote them, and merging them is wrong for a client's tensor
parallelism.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hitvideo.config import ConfigError
from hitvideo.llm.init import full_shape
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import AVERAGE, WEIGHT, adam_states, fragments, refresh_weights

FORMAT = 1


def save(
    directory: Path, engine: Engine, step: int, fingerprint: str, keep_last: int, job: dict[str, Any] | None = None
) -> Path:
    """Write the state after `step` steps; all ranks together. Older checkpoints beyond `keep_last` are removed.

    `job`: what the program itself has to remember, as JSON can hold it; `job_state` gives it back.
    """
    topology = engine.topology
    final = directory / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    if topology.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    tensors: dict[str, torch.Tensor] = {}
    index = []
    for name, offset, states in fragments(engine, engine.model):
        index.append({"name": name, "offset": offset, "length": states[WEIGHT].numel()})
        for kind, state in states.items():
            tensors[f"{name}@{offset}/{kind}"] = state.to("cpu", copy=True)
    stem = partial / f"rank-{topology.rank:05d}"
    save_file(tensors, stem.with_suffix(".safetensors"))
    _sync(stem.with_suffix(".safetensors"))
    _write_json(stem.with_suffix(".json"), {"tensor_rank": topology.tensor_rank, "fragments": index})
    dist.barrier()
    if topology.rank == 0:
        description = {
            "format": FORMAT,
            "step": step,
            "averaged": bool(engine.averages),
            "adam_step": int(adam_states(engine)[0]["step"]),
            "fingerprint": fingerprint,
            "world": topology.world,
            "tensor": topology.tensor,
            "parameters": _shapes(engine),
            "job": job or {},
        }
        _write_json(partial / "state.json", description)
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        _sync(directory)
        for old in complete(directory)[:-keep_last]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def load(path: Path, engine: Engine, fingerprint: str) -> int:
    """Read a checkpoint of any layout into this one; returns the number of steps behind it.

    How a parameter is divided here is the present model's affair: a checkpoint of one process divides nothing.
    """
    reader = Reader(path)
    found = reader.state["fingerprint"]
    if found != fingerprint:
        raise ConfigError(f"{path} is a checkpoint of other settings or data (fingerprint {found}, ours {fingerprint})")
    topology, shapes = engine.topology, _shapes(engine)
    name, share = "", {}
    for fragment in fragments(engine, engine.model):
        if fragment.name != name:
            name, (shape, dim) = fragment.name, shapes[fragment.name]
            # An average that the checkpoint does not have starts from its weights.
            average = AVERAGE if reader.averaged else WEIGHT
            whole = {kind: reader.full(name, average if kind == AVERAGE else kind) for kind in fragment.states}
            if list(whole[WEIGHT].shape) != shape:
                raise ConfigError(f"{path}: {name} has shape {list(whole[WEIGHT].shape)}, the run's model has {shape}")
            share = {k: (w if dim < 0 else w.chunk(topology.tensor, dim)[topology.tensor_rank]) for k, w in whole.items()}
        for kind, view in fragment.states.items():
            view.copy_(share[kind].flatten().narrow(0, fragment.offset, view.numel()))
    for state in adam_states(engine):
        state["step"].fill_(reader.state["adam_step"])
    refresh_weights(engine)
    return int(reader.state["step"])


def job_state(path: Path) -> dict[str, Any]:
    """What the program that wrote a checkpoint had to remember beside the tensors."""
    found: dict[str, Any] = Reader(path).state.get("job", {})
    return found


def complete(directory: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    found = directory.glob("step-*") if directory.is_dir() else iter(())
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and (path / "state.json").is_file())


class Reader:
    """The undivided tensors of a checkpoint, one at a time, on one CPU. Needs no process group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = _read_json(path / "state.json")
        if self.state.get("format") != FORMAT:
            raise ConfigError(f"{path}: checkpoint format {self.state.get('format')}, this version reads {FORMAT}")
        self._files: dict[Path, Any] = {}
        self._where: dict[str, list[tuple[int, int, int, Path]]] = {}
        for rank in range(self.state["world"]):
            stem = path / f"rank-{rank:05d}"
            listing = _read_json(stem.with_suffix(".json"))
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

    def full(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """A parameter's undivided weight, Adam moment or average."""
        if name not in self.state["parameters"]:
            raise ConfigError(f"{self.path}: has no parameter '{name}'; it is a checkpoint of another model")
        shape, dim = self.state["parameters"][name]
        ranks = self.state["tensor"] if dim >= 0 else 1
        share = list(shape)
        if dim >= 0:
            share[dim] //= ranks
        parts = []
        for rank in range(ranks):
            flat, filled = torch.empty(torch.Size(share).numel()), 0
            for tensor_rank, offset, length, file in self._where[name]:
                if tensor_rank == rank:
                    flat[offset : offset + length] = self._open(file).get_tensor(f"{name}@{offset}/{kind}")
                    filled += length
            assert filled == flat.numel(), f"{self.path}: {filled} of {flat.numel()} elements of {name}"
            parts.append(flat.view(share))
        return parts[0] if dim < 0 else torch.cat(parts, dim)

    def weights(self, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Every undivided weight, averaged where the run averages: what `weights/` is exported from."""
        for name in self.names:
            yield name, self.full(name, AVERAGE if self.averaged else WEIGHT).to(dtype)

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            try:
                self._files[file] = safe_open(file, framework="pt")
            except (OSError, SafetensorError) as error:
                mend = f"remove {self.path} to resume from the one before"
                raise ConfigError(f"{file}: damaged checkpoint: {error}; {mend}") from error
        return self._files[file]


def _shapes(engine: Engine) -> dict[str, Any]:
    """name → [full shape, divided dimension or -1]. ZeRO-3 empties parameters, but remembers their shape."""
    tensor = engine.topology.tensor
    shapes = {}
    for name, parameter in engine.model.named_parameters():
        full, dim = full_shape(parameter, tensor, getattr(parameter, "ds_shape", parameter.shape))
        shapes[name] = [list(full), dim]
    return shapes


def _write_json(path: Path, content: Any) -> None:
    with path.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: damaged checkpoint: {error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
