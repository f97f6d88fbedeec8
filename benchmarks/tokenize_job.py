"""Benchmark of the offline job: its frames per second against decoding alone and encoding alone.

    python -m benchmarks.tokenize_job

Renders and packs videos of 128×128, then times in turn: the decoding pool alone (one worker process), the device tokenizer
alone on clips in memory (one thread), and the job, which does both at once and commits. The job cannot be faster than the
slower of the two, which is encoding here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
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
CLIPS, PER_SHARD, BATCH, ROUNDS = 32, 16, 4, 3


def make_settings(folder: Path) -> TokenizeRun:
    hierarchy = Hierarchy(levels=(Level(down=(16, 32, 32), num_bits=12), Level(down=(8, 16, 16), num_bits=12)))
    video_tokenizer = VideoTokenizerSection(patch=4, channels=(16, 16, 24, 32), latent_channels=8, blocks=1)
    torch.manual_seed(0)
    save_video_tokenizer(VideoTokenizer(video_tokenizer, hierarchy).eval(), folder / "weights", CLIP)
    write_moving_shapes(folder / "videos", CLIPS, 0, CLIP, "mixed", PER_SHARD)
    data = {"video_shards": str(folder / "videos"), "out": str(folder / "out"), "batch": BATCH, "workers": 1}
    weights = {"weights": str(folder / "weights")}
    return TokenizeRun(program="tokenize_shards", run={"name": "bench"}, video_tokenizer=weights, data=data)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, DecodingPool(1, 60, 4) as pool:
        folder = Path(name)
        settings = make_settings(folder)
        device_tokenizer, shards = DeviceTokenizer(settings), list_shards(str(folder / "videos"))
        work = [(shard, member, device_tokenizer.recipe) for shard in shards for member in scan(shard).samples]
        clips = [pool.submit(*item).result().clips[0] for item in work]  # also starts the worker

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
            start = time.perf_counter()
            assert len(list(pipeline(shards, lambda _: None))) == len(shards)
            busy.append(pipeline.stages.encode / (time.perf_counter() - start))

        busy: list[float] = []
        sides = {"decode only": decode, "encode only": encode, "job": job}
        wall: dict[str, list[float]] = {side: [] for side in sides}
        cpu: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(ROUNDS + 1):
            for side, call in sides.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                if turn:
                    wall[side].append(CLIPS * CLIP.frames / (time.perf_counter() - start))
                    cpu[side].append(time.process_time() - used)
        rates = {side: statistics.median(found) for side, found in wall.items()}
        for side, found in rates.items():
            print(f"{side:12} {found:8.0f} frames/s")
        ceiling = min(rates["decode only"], rates["encode only"])
        print(f"job : the slower of the two = {rates['job'] / ceiling:.2f} in wall time")
        alone, within = statistics.median(cpu["encode only"]), statistics.median(cpu["job"])
        print(f"  … in CPU time of the encoding process, which other load does not change: {alone / within:.2f}")
        print(f"the device tokenizer is busy {100 * statistics.median(busy):.0f} % of the job's time")


if __name__ == "__main__":
    main()
