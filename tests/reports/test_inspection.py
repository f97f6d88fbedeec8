"""Inspection lists what is in a file, good and bad, and says what it takes instead of failing."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from hitvideo.data.token_format import TokenSample, commit, shard_paths
from hitvideo.errors import ConfigError
from hitvideo.reports.inspection import decode_sample, describe, describe_all
from hitvideo.video.encode import encode_mp4


def video_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def token_shard(folder: Path, keys: str = "abc") -> Path:
    folder.mkdir(exist_ok=True)
    samples = [TokenSample(key, [np.full((1, 2, 2), place)], f"caption {key}", {}) for place, key in enumerate(keys)]
    commit(folder, "000000", samples, {"stem": "000000"}, "test")
    return shard_paths(folder, "000000")[0]


def test_a_bad_member_is_listed_among_the_others(tmp_path: Path) -> None:
    video = encode_mp4(np.zeros((2, 32, 32, 3), np.uint8), 8)
    path = video_shard(tmp_path / "0.tar", {
        "a.mp4": video, "a.json": b'{"caption": "fine"}', "b.mp4": video, "b.json": b"{not json",
        "c.mp4": video, "c.json": b'{"url": "x"}', "d.json": b'{"caption": "no video"}', "e.mp4": video, "e.txt": b"beside",
    })  # fmt: skip
    figures = describe(path)
    rows = {row["key"]: row for row in figures["samples"]}
    assert {key: row.get("caption") for key, row in rows.items()} == {"a": "fine", "b": None, "c": None, "e": "beside"}
    assert all("error" in rows[key] for key in "bc")
    assert [reason for _, reason in figures["bad"]] == ["no_video"]
    json.dumps(figures)


def test_videos_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        f"{k}.{end}": content for k in range(5) for end, content in (("mp4", bytes(1 << 20)), ("json", b'{"caption": "x"}'))
    }
    path = video_shard(tmp_path / "0.tar", members)
    read: list[int] = []
    pread = os.pread

    def counted(handle: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert describe(path)["count"] == 5
    assert sum(read) < 1 << 20


def test_a_damaged_sample_of_a_token_shard_is_listed(tmp_path: Path) -> None:
    path = token_shard(tmp_path)
    content = bytearray(path.read_bytes())
    content[:512] = bytes(512)
    path.write_bytes(content)
    figures = describe(path)
    assert figures["count"] == 3
    assert "error" in figures["samples"][0]
    assert [row["key"] for row in figures["samples"][1:]] == ["b", "c"]


@pytest.mark.parametrize(
    "content", [b"", b"junk" * 40, b"\x93NUMPY\x01\x00v\x00{'descr': '<u8', 'fortran_order': False, 'shape': (10**15,)}"]
)
def test_a_damaged_index_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = token_shard(tmp_path)
    shard_paths(tmp_path, "000000")[1].write_bytes(content)
    with pytest.raises(ValueError, match="index"):
        describe(path)


def test_many_files_are_described_alike_by_any_number_of_processes(tmp_path: Path) -> None:
    """In their order, each as alone; a damaged, a cut and an absent one are told of among the others."""
    shards = [token_shard(tmp_path / name, keys) for name, keys in (("a", "abc"), ("b", "de"), ("c", "f"))]
    shard_paths(shards[1].parent, "000000")[1].write_bytes(b"junk")
    video = {"x.mp4": bytes(4096), "x.json": b'{"caption": "x"}', "y.mp4": bytes(4096), "y.json": b'{"caption": "y"}'}
    whole = video_shard(tmp_path / "0.tar", video)
    cut = tmp_path / "1.tar"
    cut.write_bytes(whole.read_bytes()[:7000])
    paths = [*shards, whole, cut, tmp_path / "absent.tar"]
    counted: list[int] = []
    alone = list(describe_all(paths, 1, counted.append))
    assert counted == [1] * len(paths)
    assert list(describe_all(paths, 3, counted.append)) == alone
    assert counted == [1] * 2 * len(paths)
    assert [figures["file"] for figures in alone] == [str(path) for path in paths]
    assert [figures.get("count") for figures in alone] == [3, None, 1, 2, 1, None]
    assert "index" in alone[1]["error"]
    assert alone[4]["truncated"]
    assert "no such file" in alone[5]["error"]
    assert alone[3] == {"file": str(whole), **describe(whole)}


def test_it_says_what_it_takes(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "x.mp4", tmp_path / "absent.tar"):
        if path.suffix == ".mp4":
            path.write_bytes(b"x")
        with pytest.raises(ConfigError, match=str(path)) as caught:
            describe(path)
        assert ("manifest.json" in str(caught.value)) == (path.suffix != ".tar")


def test_only_token_shards_are_decoded(tmp_path: Path) -> None:
    shard = video_shard(tmp_path / "0.tar", {"a.mp4": b"x", "a.json": b'{"caption": "x"}'})
    for path in (shard, tmp_path, tmp_path / "absent.tar", tmp_path / "manifest.json"):
        with pytest.raises(ConfigError, match="token shard"):
            decode_sample(path, "a")
