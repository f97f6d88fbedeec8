"""A checkpoint of any layout reads as any other: all pairs of divisions, in milliseconds and without ranks."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from hitvideo.checkpoints.reader import Division, Reader
from hitvideo.errors import ConfigError
from tests.checkpoints.written import DIVIDED, write_checkpoint

LAYOUTS = [(tensor, shards) for tensor in (1, 2, 4) for shards in (1, 2, 3)]


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"rows": (8, 5), "columns": (3, 12), "norm": (7,)}
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(("tensor", "shards"), LAYOUTS)
def test_any_layout_reads_as_any_other(
    tmp_path: Path, weights: dict[str, torch.Tensor], tensor: int, shards: int, indexed: bool
) -> None:
    """What every rank of every other layout asks for: its share, flattened and cut into ZeRO's equal parts."""
    reader = Reader(write_checkpoint(tmp_path / "step-00000001", weights, tensor, shards, indexed))
    for name, whole in weights.items():
        assert torch.equal(reader.full(name), whole)
    for (other, parts), (name, whole) in product(LAYOUTS, weights.items()):
        dim = DIVIDED[name]
        division = Division(dim, other if dim >= 0 else 1)
        for rank in range(other):
            share = (whole if dim < 0 else whole.chunk(other, dim)[rank]).flatten()
            part = -(-len(share) // parts)
            for offset in range(0, len(share), part):
                expected = share[offset : offset + part]
                found = reader.part(name, "fp32", division, rank, offset, len(expected))
                assert torch.equal(found, expected), (name, other, parts, rank, offset)


def test_the_index_spares_the_files_of_all_ranks(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = write_checkpoint(tmp_path / "step-00000001", weights, 2, 3)
    for file in path.glob("rank-*.json"):
        file.unlink()
    reader = Reader(path)
    assert all(torch.equal(reader.full(name), whole) for name, whole in weights.items())
    (path / "index.json").write_text('{"ranks": []}')
    with pytest.raises(ConfigError, match="6 ranks"):
        Reader(path)


def test_what_is_missing_is_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = write_checkpoint(tmp_path / "step-00000001", weights, 1, 1)
    with pytest.raises(ConfigError, match="'bias'"):
        Reader(path).shape("bias")
    (path / "rank-00000.safetensors").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"rank-00000\.safetensors"):
        Reader(path).full("norm")
