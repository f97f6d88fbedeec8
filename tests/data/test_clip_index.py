"""The kept list of videos: the same as a new one, made again only where a shard has changed."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hitvideo.data import clip_index
from hitvideo.data.clip_index import ClipIndex, list_clips
from hitvideo.data.video_shards import VideoSample, list_shards, read, scan, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [VideoSample(f"k{k:03d}", bytes([k]) * (k + 1), "mp4", {"caption": "c"}) for k in range(20)]
    write_shards(samples, tmp_path / "shards", 6)
    return tmp_path


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()

    def counting(shard: Any) -> Any:
        counts[shard.name] += 1
        return scan(shard)

    monkeypatch.setattr(clip_index, "scan", counting)
    return counts


def listed(folder: Path, kept: bool = True) -> ClipIndex:
    return list_clips(list_shards(str(folder / "shards")), folder / "runs" if kept else None)


def same(one: ClipIndex, other: ClipIndex) -> bool:
    return np.array_equal(one.entries, other.entries) and one.listed == other.listed


def test_entries_are_the_places_of_the_videos(folder: Path) -> None:
    shards = list_shards(str(folder / "shards"))
    for index in (listed(folder), listed(folder, kept=False)):
        assert index.starts.tolist() == [0, 6, 12, 18, 20]
        for number, shard in enumerate(shards):
            for entry, member in zip(index.of(number), scan(shard).samples, strict=True):
                content = shard.read_bytes()[int(entry["offset"]) :][: int(entry["size"])]
                assert (content, entry["key"].decode()) == (read(shard, member).video, member.key)


def test_a_second_start_walks_through_no_tar(folder: Path, scanned: Counter[str]) -> None:
    first = listed(folder)
    assert scanned == {f"{number:06d}.tar": 1 for number in range(4)}
    assert same(listed(folder), first)
    assert same(listed(folder, kept=False), first)
    assert scanned.total() == 8, "the second start read the list, the one that keeps none made it anew"
    assert len([path for path in (folder / "runs").iterdir() if path.suffix == ".index"]) == 1


def test_only_changed_shards_are_listed_again(folder: Path, scanned: Counter[str]) -> None:
    listed(folder)
    scanned.clear()
    (folder / "shards/000001.tar").write_bytes((folder / "shards/000003.tar").read_bytes())
    found = listed(folder)
    assert scanned == {"000001.tar": 1}
    assert found.starts.tolist() == [0, 6, 8, 14, 16]
    os.utime(folder / "shards/000002.tar", ns=(1, 1))  # written again with the same size
    assert same(listed(folder), listed(folder, kept=False))
    assert scanned["000002.tar"] == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "other magic", "not JSON"])
def test_a_damaged_list_is_made_again(folder: Path, scanned: Counter[str], damage: str) -> None:
    listed(folder)
    (path,) = (path for path in (folder / "runs").iterdir() if path.suffix == ".index")
    whole = path.read_bytes()
    damaged = {"empty": b"", "cut": whole[:-9], "other magic": b"HVCLIP99" + whole[8:], "not JSON": whole + b"x"}
    path.write_bytes(damaged[damage])
    assert same(listed(folder), listed(folder, kept=False))
    assert path.read_bytes() == whole


def test_what_is_not_listed_is_counted(folder: Path) -> None:
    assert listed(folder).summary() == "20 videos in 4 video shards"
    tar = folder / "shards/000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with tarfile.open(folder / "shards/000009.tar", "w") as odd:
        for name in ("a.json", "b.json", "c.mp4"):
            odd.addfile(tarfile.TarInfo(name))
    for kept in (True, True, False):
        words, videos = listed(folder, kept).summary(), 14 + len(scan(tar).samples)
        assert words.startswith(f"{videos} videos in 5 video shards; 3 samples are left out (no_metadata 1, no_video 2)")
        assert "1 shards are cut" in words
        assert "000001.tar" in words


def test_long_keys_are_cut_only_in_names(tmp_path: Path) -> None:
    write_shards([VideoSample("k" * 90, b"x", "mp4", {"caption": "c"})], tmp_path / "shards", 6)
    assert listed(tmp_path).entries["key"].tolist() == [b"k" * 48]
