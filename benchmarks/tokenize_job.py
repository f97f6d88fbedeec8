"""Benchmark of the offline job: its frames per second against decoding alone and encoding alone.

    python -m benchmarks.tokenize_job [WORKERS …]

Renders and packs videos of 128×128, then times in turn: the decoding pool alone (WORKERS processes), the device tokenizer alone
on clips in memory (one thread), and the job, which does both at once and commits. The job cannot be faster than the slower of
the two. Where a core is missing for one of the processes, all of them share what there is: then what counts is
CPU time, of decoding and encoding alone against that of the job. The best of the rounds counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.video_shards import list_shards, scan
from hitvideo.hierarchy import ClipShape, Hierarchy, Level
from hitvideo.settings.programs import TokenizeRun
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import save_video_tokenizer
from tokenize_shards.decoding import DecodingPool
from tokenize_shards.encoder import DeviceTokenizer
from tokenize_shards.job import Pipeline

CLIP = ClipShape(frames=16, height=128, width=128, fps=8)
CLIPS, PER_SHARD, BATCH, ROUNDS, WORKERS = 64, 16, 4, 4, (1, 2)


def make_settings(folder: Path) -> TokenizeRun:
    hierarchy = Hierarchy(levels=(Level(down=(16, 32, 32), num_bits=12), Level(down=(8, 16, 16), num_bits=12)))
    video_tokenizer = VideoTokenizerSection(patch=4, channels=(16, 16, 24, 32), latent_channels=8, blocks=1)
    torch.manual_seed(0)
    save_video_tokenizer(VideoTokenizer(video_tokenizer, hierarchy).eval(), folder / "weights", CLIP)
    write_moving_shapes(folder / "videos", CLIPS, 0, CLIP, "mixed", PER_SHARD)
    data = {"video_shards": str(folder / "videos"), "out": str(folder / "out"), "batch": BATCH, "workers": 1}
    weights = {"weights": str(folder / "weights")}
    return TokenizeRun(program="tokenize_shards", run={"name": "bench"}, video_tokenizer=weights, data=data)


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has started."""
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def compare(folder: Path, device_tokenizer: DeviceTokenizer, workers: int) -> None:
    """Print the rates of both sides alone and of the job."""
    with DecodingPool(workers, 60, 4) as pool:
        shards = list_shards(str(folder / "videos"))
        work = [(shard, member, device_tokenizer.recipe) for shard in shards for member in scan(shard).samples]
        clips = [future.result().clips[0] for future in [pool.submit(*item) for item in work]]  # also starts the workers

        def decode() -> None:
            for future in [pool.submit(*item) for item in work]:
                future.result()

        def encode() -> None:
            for start in range(0, CLIPS, BATCH):
                for indices in device_tokenizer(clips[start : start + BATCH]):
                    indices.cpu()

        def job() -> None:
            out = folder / f"out{time.monotonic_ns()}"
            out.mkdir()
            pipeline = Pipeline(device_tokenizer, pool, out)
            assert len(list(pipeline(shards, lambda _: None))) == len(shards)

        sides: dict[str, Callable[[], None]] = {"decode only": decode, "encode only": encode, "job": job}
        wall: dict[str, list[float]] = {side: [] for side in sides}
        cpu: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(ROUNDS + 1):
            for side, call in sides.items():
                start, used = time.perf_counter(), cpu_seconds()
                call()
                if turn:
                    wall[side].append(time.perf_counter() - start)
                    cpu[side].append(cpu_seconds() - used)
    rates = {side: CLIPS * CLIP.frames / min(found) for side, found in wall.items()}
    listed = ", ".join(f"{side} {rate:.0f}" for side, rate in rates.items())
    print(f"{workers} workers, {os.cpu_count()} cores; frames/s: {listed}")
    print(f"  job : the slower of the two = {rates['job'] / min(rates['decode only'], rates['encode only']):.2f}")
    least = {side: min(found) for side, found in cpu.items()}
    alone = least["decode only"] + least["encode only"]
    print(f"  CPU time of both alone : the job's = {alone / least['job']:.2f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        device_tokenizer = DeviceTokenizer(make_settings(folder))
        for workers in map(int, sys.argv[1:]) if len(sys.argv) > 1 else WORKERS:
            compare(folder, device_tokenizer, workers)


if __name__ == "__main__":
    main()
