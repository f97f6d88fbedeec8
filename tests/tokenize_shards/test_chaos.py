"""Four tasks are killed thirty times, and one is never restarted: no sample is lost or duplicated, and the bytes match."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.data.video_shards import list_shards, read, scan
from hitvideo.video.encode import encode_mp4
from tests.samples import tiny_hierarchy
from tests.tokenize_shards.helpers import content, words
from tests.videos import claiming, mux

SHARDS, PER_SHARD, TASKS, KILLS = 64, 6, 4, 30
LOST = 3  # after KILLS // 3 kills this task is killed for good


def planted(good: bytes) -> dict[str, tuple[bytes, str]]:
    """Return bad files by key, each with the reason for its reject."""
    return {
        "bad-truncated": (good[: len(good) // 2], "corrupt"),
        "bad-zero": (b"", "empty"),
        "bad-text": (b"a text named like a video\n" * 30, "corrupt"),
        "bad-one-frame": (encode_mp4(np.zeros((1, 32, 32, 3), np.uint8), 8), "too_short"),
        "bad-ten-hours": (mux([0, 1, 36000], tick=Fraction(1, 30)), "too_long"),
        "bad-30k": (claiming(30_000), "corrupt"),
        "bad-8k": (claiming(8000), "too_large"),
        "../outside": (good, "bad_name"),
    }


def make_videos(out: Path) -> dict[tuple[str, str], str]:
    """Write 64 shards: eight with a planted file, one with a duplicate key, one truncated. Returns the expected rejects."""
    write_moving_shapes(out, SHARDS * PER_SHARD, 1, tiny_hierarchy()[1], "mixed", PER_SHARD)
    shards = list_shards(str(out))
    expected = {}
    good = read(shards[0], scan(shards[0]).samples[0]).video
    for shard, (name, (data, reason)) in zip(shards[::7], planted(good).items(), strict=False):
        assert isinstance(shard, Path)
        append(shard, name, data)
        expected[shard.stem, name] = reason
    twice, cut = shards[1], shards[2]
    assert isinstance(twice, Path)
    assert isinstance(cut, Path)
    key = scan(twice).samples[0].key
    append(twice, key, b"another with this key")
    expected[twice.stem, key] = "duplicate"
    cut.write_bytes(cut.read_bytes()[: scan(cut).samples[3].video.offset + 99])
    expected[cut.stem, ""] = "truncated"
    assert len(expected) == len(planted(b"")) + 2
    return expected


def append(shard: Path, key: str, data: bytes) -> None:
    with tarfile.open(shard, "a") as tar:
        for name, member in ((f"{key}.mp4", data), (f"{key}.json", b'{"caption": "planted"}')):
            info = tarfile.TarInfo(name)
            info.size = len(member)
            tar.addfile(info, io.BytesIO(member))


def run_task(arguments: list[str], log: Path) -> None:
    import torch

    from tokenize_shards.__main__ import main

    torch.set_num_threads(1)
    sys.stderr = log.open("a")
    sys.exit(main(arguments))


def receipts(out: Path) -> int:
    return len(list(out.glob("*.receipt.json")))


@contextmanager
def standing_still(processes: Iterable[Any]) -> Iterator[None]:
    """The others must not finish the job while one is replaced."""
    stopped = [process.pid for process in processes]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_thirty_kills(weights: Path, tmp_path: Path) -> None:
    videos, quiet, out = tmp_path / "videos", tmp_path / "quiet" / "out", tmp_path / "out"
    expected = make_videos(videos)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenize_shards.__main__"])

    def start(task: int) -> Any:
        which = [f"task.index={task}", f"task.count={TASKS}", "task.lease_seconds=1.5"]
        more = [*which, "data.batch=2", f"data.workers={task % 2}"]
        process = context.Process(target=run_task, args=(words(weights, videos, out, *more), tmp_path / f"log{task}"))
        process.start()
        return process

    undisturbed = context.Process(target=run_task, args=(words(weights, videos, quiet), tmp_path / "log"))
    undisturbed.start()
    undisturbed.join(120)
    assert undisturbed.exitcode == 0, (tmp_path / "log").read_text()

    rng, kills, lost, due = random.Random(0), 0, False, 0
    running = {task: start(task) for task in range(TASKS)}
    deadline = time.monotonic() + 300
    while any(process.is_alive() for process in running.values()):
        assert time.monotonic() < deadline, "the job did not end"
        time.sleep(0.01)
        for task, process in list(running.items()):
            if not process.is_alive():
                assert process.exitcode == 0, (tmp_path / f"log{task}").read_text()
                del running[task]
        alive = [task for task, process in running.items() if process.is_alive()]
        # By the shards done, not by the clock: on a machine of any speed all kills happen before the job ends.
        if kills < KILLS and alive and receipts(out) >= due:
            time.sleep(rng.uniform(0, 0.05))
            task = LOST if kills == KILLS // 3 and LOST in alive else rng.choice(alive)
            with standing_still(running[other] for other in alive if other != task):
                running[task].kill()
                running[task].join()
                kills += 1
                if task == LOST and kills > KILLS // 3:
                    lost = True
                    del running[task]
                else:
                    running[task] = start(task)
                due = receipts(out) + rng.choice((0, 1, 1))
    assert kills == KILLS
    assert lost
    assert content(out) == content(quiet)

    manifest = json.loads((out / "manifest.json").read_text())
    found = scan_all(videos)
    good = found - len(expected) + 1  # the truncated shard's one reject covers everything cut off
    assert (manifest["samples_in"], manifest["samples_out"], manifest["rejected"]) == (found + 1, good, len(expected))
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert {(reject["stem"], reject["key"]): reject["reason"] for reject in rejects} == expected
    keys = [sample.key for sample in TokenDataset(out / "manifest.json")]
    assert len(keys) == len(set(keys)) == good
    assert list(verify(out / "manifest.json")) == []
    assert not (tmp_path / "outside").exists()


def scan_all(videos: Path) -> int:
    """Return the number of samples in the shards, good and bad."""
    listings = [scan(shard) for shard in list_shards(str(videos))]
    return sum(len(listing.samples) + len(listing.bad) for listing in listings)


@pytest.mark.slow
def test_a_task_that_sleeps_longer_than_its_lease(weights: Path, tmp_path: Path) -> None:
    """Another task does its shards; when it wakes up in the middle of one, it neither spoils nor doubles anything."""
    videos, quiet, out = tmp_path / "videos", tmp_path / "quiet" / "out", tmp_path / "out"
    make_videos(videos)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenize_shards.__main__"])

    def start(task: int, to: Path) -> Any:
        more = [f"task.index={task}", "task.count=2", "task.lease_seconds=0.5", "data.batch=2"]
        process = context.Process(target=run_task, args=(words(weights, videos, to, *more), tmp_path / f"log{task}"))
        process.start()
        return process

    undisturbed = start(0, quiet)
    undisturbed.join(120)
    sleeper = start(0, out)
    until(lambda: receipts(out) >= 3)
    with standing_still([sleeper]):
        left = {path.name for path in (out / ".leases").glob("0*.lease")}
        other = start(1, out)
        until(lambda: (out / "manifest.json").is_file())
        other.join(60)
        finished = content(out)
    sleeper.join(60)
    assert left, "it held shards when it was stopped"
    assert (other.exitcode, sleeper.exitcode) == (0, 0)
    assert finished == content(out) == content(quiet)
    assert not (out / ".leases").exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def until(happened: Any) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
