"""What a job refuses to start on: an output that holds its input, and videos that are not those it tokenized."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from hitvideo.data.pack import write_moving_shapes
from hitvideo.errors import ConfigError
from tests.samples import tiny_hierarchy
from tests.tokenize_shards.helpers import content, words
from tokenize_shards.__main__ import main
from tokenize_shards.source import identity


@pytest.fixture
def mine(videos: Path, tmp_path: Path) -> Path:
    shutil.copytree(videos, tmp_path / "mine")
    return tmp_path / "mine"


@pytest.mark.parametrize("kind", ["same", "linked", "links", "url", "glob", "above"])
def test_no_output_over_an_input(weights: Path, mine: Path, tmp_path: Path, kind: str) -> None:
    before = content(mine)
    source, out = str(mine), mine
    if kind == "linked":
        out = tmp_path / "linked"
        out.symlink_to(mine)
    elif kind == "links":  # a folder of links into the output
        source = str(tmp_path / "links")
        Path(source).mkdir()
        for shard in mine.glob("*.tar"):
            (Path(source) / shard.name).symlink_to(shard)
    elif kind == "url":
        source = mine.as_uri()
    elif kind == "glob":
        source = f"{mine}/*.tar"
    elif kind == "above":
        out = tmp_path
    with pytest.raises(ConfigError, match=r"data\.out.*000000\.tar"):
        main(words(weights, source, out))
    assert content(mine) == before


def test_tars_of_somebody_else_are_not_replaced(weights: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000002.tar").write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"data\.out.*000002\.tar"):
        main(words(weights, videos, tmp_path / "out"))
    assert content(tmp_path / "out") == {"000002.tar": b"precious"}


@pytest.mark.parametrize("broken", ["a file", "in a file"])
def test_an_output_that_cannot_be_written(weights: Path, videos: Path, tmp_path: Path, broken: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.out"):
        main(words(weights, videos, tmp_path / "file" / ("" if broken == "a file" else "out")))


def test_a_file_system_without_locks_is_named(
    weights: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Lustre answers that is mounted without them: before the first shard is encoded, not after."""

    def absent(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", absent)
    with pytest.raises(ConfigError, match=r"data\.out.*flock"):
        main(words(weights, videos, tmp_path / "out"))


def test_a_changed_source_is_named(weights: Path, mine: Path, tmp_path: Path) -> None:
    """Other videos under the same names do not count as done: of another size, and of the same size."""
    out = tmp_path / "out"
    assert main(words(weights, mine, out)) == 0
    receipt = json.loads((out / "000002.receipt.json").read_text())
    assert {key: receipt[key] for key in ("source_bytes", "source_ends")} == identity(mine / "000002.tar")
    before, good = content(out), (mine / "000002.tar").read_bytes()
    write_moving_shapes(tmp_path / "others", 4, 77, tiny_hierarchy()[1], "mixed", 4)
    flipped = bytearray(good)
    flipped[700] ^= 1
    for other in ((tmp_path / "others" / "000000.tar").read_bytes(), bytes(flipped)):
        (mine / "000002.tar").write_bytes(other)
        with pytest.raises(ConfigError, match=r"000002\.receipt\.json"):
            main(words(weights, mine, out))
        assert content(out) == before
    (mine / "000002.tar").write_bytes(good)
    assert main(words(weights, mine, out)) == 0


def test_both_ends_of_a_large_shard_count(tmp_path: Path) -> None:
    path, seen = tmp_path / "a.tar", set()
    mib = 1 << 20
    for size, place in [(100, 0), (mib, 0), (mib + 1, mib), (3 * mib, 0), (3 * mib, 3 * mib - 1), (3 * mib, None)]:
        data = bytearray(size)
        if place is not None:
            data[place] = 1
        path.write_bytes(data)
        seen.add(tuple(identity(path).values()))
    assert len(seen) == 6


def test_a_damaged_contract_or_receipt_is_named(weights: Path, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(words(weights, videos, out)) == 0
    for name in ("contract.json", "000001.receipt.json"):
        good = (out / name).read_bytes()
        (out / name).write_bytes(good[: len(good) // 2])
        with pytest.raises(ValueError, match=name):
            main(words(weights, videos, out))
        (out / name).write_bytes(good)
    assert main(words(weights, videos, out)) == 0
