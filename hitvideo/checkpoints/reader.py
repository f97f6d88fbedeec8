"""Reads the tensors of a checkpoint of any layout, whole or in part, on one CPU. No process group, no DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from hitvideo.checkpoints.listing import INDEX_FILE, STATE_FILE, read_state, whole
from hitvideo.errors import ConfigError
from hitvideo.files import read_json

WEIGHT, AVERAGE = "fp32", "ema"
"""Kinds of tensors besides Adam's exp_avg and exp_avg_sq: the fp32 weights, and their moving average."""


class Division(NamedTuple):
    """How tensor-parallel ranks divide a parameter: along `dim`, or not at all (-1)."""

    dim: int
    ranks: int


class Reader:
    """The tensors of one checkpoint. Raises ConfigError if it is damaged or lacks what is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = read_state(path)
        self._files: dict[Path, Any] = {}
        self._where: dict[str, list[tuple[int, int, int, Path]]] = {}
        for rank, (listing, source) in enumerate(self._listings()):
            fragments, tensor_rank = listing.get("fragments"), listing.get("tensor_rank", -1)
            if not isinstance(fragments, list) or not whole(tensor_rank) or not all(map(_is_fragment, fragments)):
                raise ConfigError(f"{source}: damaged checkpoint: its fragments need a name, an offset and a length")
            for entry in fragments:
                where = (tensor_rank, entry["offset"], entry["length"], path / f"rank-{rank:05d}.safetensors")
                self._where.setdefault(entry["name"], []).append(where)

    def _listings(self) -> Iterator[tuple[dict[str, Any], Path]]:
        """What each rank has written, and the file that says so: index.json, or the rank's own in an older checkpoint."""
        if "index" not in self.state:
            for rank in range(self.state["world"]):
                file = self.path / f"rank-{rank:05d}.json"
                yield read_json(file, "checkpoint"), file
            return
        file = self.path / INDEX_FILE
        ranks, world = read_json(file, "checkpoint").get("ranks"), self.state["world"]
        if not isinstance(ranks, list) or len(ranks) != world or not all(isinstance(each, dict) for each in ranks):
            raise ConfigError(f"{file}: damaged checkpoint: it must list the {world} ranks that {STATE_FILE} counts")
        for each in ranks:
            yield each, file

    @property
    def names(self) -> list[str]:
        """Names of the parameters."""
        return list(self.state["parameters"])

    @property
    def averaged(self) -> bool:
        """Whether the run keeps a moving average of its weights."""
        return bool(self.state.get("averaged", False))

    def shape(self, name: str) -> list[int]:
        """Shape of the undivided parameter."""
        if name not in self.state["parameters"]:
            raise ConfigError(f"{self.path}: has no parameter '{name}'; it is a checkpoint of another model")
        shape: list[int] = self.state["parameters"][name][0]
        return shape

    def full(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """A parameter's undivided weight, Adam moment or average."""
        shape, written = self.shape(name), self._written(name)
        share = [size // written.ranks if axis == written.dim else size for axis, size in enumerate(shape)]
        numel = math.prod(share)
        parts = [self._share(name, kind, rank, 0, numel).view(share) for rank in range(written.ranks)]
        return torch.cat(parts, written.dim) if len(parts) > 1 else parts[0]

    def part(self, name: str, kind: str, division: Division, rank: int, offset: int, length: int) -> torch.Tensor:
        """Elements offset … offset + length of the flattened share that a tensor-parallel rank has in this division.

        Only these are read, except if the checkpoint divides a matrix differently along its second dimension: then all of it.
        """
        written, numel = self._written(name), math.prod(self.shape(name))
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
        """Every undivided weight, or its average if the run keeps one: what `weights/` is exported from."""
        for name in self.names:
            yield name, self.full(name, AVERAGE if self.averaged else WEIGHT).to(dtype)

    def _written(self, name: str) -> Division:
        dim = self.state["parameters"][name][1]
        return Division(dim, self.state["tensor"] if dim >= 0 else 1)

    def _share(self, name: str, kind: str, rank: int, offset: int, length: int) -> torch.Tensor:
        """Elements of a tensor-parallel rank's share. Memory is taken only once the files are known to hold them."""
        pieces, filled = [], 0
        for tensor_rank, start, count, file in sorted(self._where.get(name, ()), key=lambda where: where[:3]):
            first, last = max(offset, start), min(offset + length, start + count)
            if first < last and tensor_rank == rank and first == offset + filled:
                pieces.append((self._stored(file, f"{name}@{start}/{kind}", count), slice(first - start, last - start)))
                filled += last - first
        if filled != length:
            raise ConfigError(f"{self.path}: damaged checkpoint: it holds {filled} of {length} elements of {name}")
        flat, filled = torch.empty(length), 0
        for stored, part in pieces:
            flat[filled : filled + part.stop - part.start] = stored[part]
            filled += part.stop - part.start
        return flat

    def _stored(self, file: Path, key: str, count: int) -> Any:
        """A tensor of a file, not yet read."""
        try:
            stored = self._open(file).get_slice(key)
        except SafetensorError as error:
            raise ConfigError(f"{file}: damaged checkpoint: {error}") from error
        if stored.get_shape() != [count]:
            raise ConfigError(f"{file}: damaged checkpoint: {key} has shape {stored.get_shape()}, {count} elements are listed")
        return stored

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            try:
                self._files[file] = safe_open(file, framework="pt")
            except (OSError, SafetensorError) as error:
                fix = f"remove {self.path} to resume from the one before"
                raise ConfigError(f"{file}: damaged checkpoint: {error}; {fix}") from error
        return self._files[file]


def _is_fragment(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    return whole(entry.get("offset")) and whole(entry.get("length"), least=1)
