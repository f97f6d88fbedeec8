"""A bad file loses only its own sample: workers that die, hang or need too much memory are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hitvideo.data.video_shards import VideoSample, list_shards, scan, write_shards
from hitvideo.errors import VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.encode import contact_sheet, encode_mp4
from tests.conftest import ROOT
from tokenize_shards.decoding import DecodingPool, WorkerError
from tokenize_shards.recipe import Recipe, decode_member

CLIP = ClipShape(frames=4, height=32, width=32, fps=8)
RECIPE = Recipe((CLIP,), "cover", 1, None, LimitsSection())


def shard_of(out: Path, *videos: bytes) -> Path:
    write_shards((VideoSample(f"k{n}", video, "mp4", {"caption": f"c{n}"}) for n, video in enumerate(videos)), out, 100)
    return list_shards(str(out))[0]  # type: ignore[return-value]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    noise = [encode_mp4(rng.integers(0, 255, (8, 48, 64, 3), dtype=np.uint8), 8) for _ in range(12)]
    return shard_of(tmp_path, *noise[:6], b"no video", *noise[6:])


def children(pid: int) -> list[int]:
    """Return the child processes of all threads of a process."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers(shard: Path, workers: int) -> None:
    members = scan(shard).samples
    with DecodingPool(workers, 60, 4) as pool:
        futures = [pool.submit(shard, member, RECIPE) for member in members]
        for number, (member, future) in enumerate(zip(members, futures, strict=True)):
            if number == 6:
                with pytest.raises(VideoError, match="k6") as caught:
                    future.result()
                assert caught.value.reason == "corrupt"
                continue
            found, expected = future.result(), decode_member(shard, member, RECIPE)
            np.testing.assert_array_equal(found.clips, expected.clips)
            assert (found.caption, found.metadata, found.bucket) == (expected.caption, expected.metadata, expected.bucket)


def test_a_killed_worker_is_replaced(shard: Path) -> None:
    members, before = scan(shard).samples[:6], set(children(os.getpid()))
    with DecodingPool(1, 60, 4) as pool:
        pool.submit(shard, members[0], RECIPE).result()
        (worker,) = set(children(os.getpid())) - before
        os.kill(worker, signal.SIGKILL)
        assert len([pool.submit(shard, member, RECIPE).result() for member in members]) == 6
    assert set(children(os.getpid())) <= before


def test_a_video_that_takes_too_long(tmp_path: Path) -> None:
    long = encode_mp4(np.random.default_rng(0).integers(0, 255, (24, 480, 640, 3), dtype=np.uint8), 8)
    short = encode_mp4(np.zeros((8, 32, 32, 3), np.uint8), 8)
    shard = shard_of(tmp_path, short, long, short)
    recipe = Recipe((ClipShape(frames=24, height=480, width=640, fps=8), CLIP), "cover", 1, None, LimitsSection())
    with DecodingPool(1, 0.1, 4) as pool:
        first, hanging, last = (pool.submit(shard, member, recipe) for member in scan(shard).samples)
        with pytest.raises(VideoError, match=r"k1.*data\.decode_seconds 0\.1.*data\.decode_gib 4") as caught:
            hanging.result()
        assert caught.value.reason == "time_limit"
        assert first.result().bucket == last.result().bucket == 1


def test_a_picture_that_needs_too_much_memory(tmp_path: Path) -> None:
    """A file of a few kilobytes holds a picture of 98 MB, which is within the limit on pixels."""
    contact_sheet([np.zeros((1, 4290, 7670, 3), np.uint8)], tmp_path / "huge.png")
    contact_sheet([np.zeros((1, 30, 30, 3), np.uint8)], tmp_path / "small.png")
    pictures = [
        VideoSample(name, (tmp_path / f"{name}.png").read_bytes(), "png", {"caption": "grey"}) for name in ("huge", "small")
    ]
    shard = write_shards(pictures, tmp_path / "shards", 10)[0]
    recipe = Recipe((ClipShape(frames=1, height=32, width=32, fps=8),), "cover", 1, None, LimitsSection())
    with DecodingPool(1, 60, 0.3) as pool:
        greedy, modest = (pool.submit(shard, member, recipe) for member in scan(shard).samples)
        with pytest.raises(VideoError) as caught:
            greedy.result()
        assert caught.value.reason in ("memory_limit", "crashed")
        assert modest.result().clips.shape == (1, 1, 32, 32, 3)
    assert decode_member(shard, scan(shard).samples[0], recipe).clips.shape == (1, 1, 32, 32, 3), "decodes without a limit"


def test_a_worker_that_cannot_start(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodingPool(1, 60, 4) as pool, pytest.raises(WorkerError, match=r"code 1\b.*data\.decode_gib"):
        pool.submit(shard, scan(shard).samples[0], RECIPE).result(20)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with DecodingPool(2, 60, 4) as pool:
        futures = [pool.submit(shard, member, RECIPE) for member in scan(shard).samples[:4]]
        for future in futures:
            with pytest.raises(WorkerError, match="/nowhere/python"):
                future.result(20)


def test_workers_end_with_their_parent(shard: Path) -> None:
    """Workers end even if the parent is killed, because their stdin ends."""
    script = f"""
import pathlib, sys
from hitvideo.data.video_shards import scan
from tests.tokenize_shards.test_decoding import RECIPE, DecodingPool
pool, shard = DecodingPool(2, 60, 4), pathlib.Path({str(shard)!r})
print([pool.submit(shard, member, RECIPE).result().bucket for member in scan(shard).samples[:4]], flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"[0, 0, 0, 0]\n"
        workers = children(parent.pid)
        parent.kill()
    assert workers
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
