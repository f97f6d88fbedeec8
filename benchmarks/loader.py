"""Benchmark of the loader against plain webdataset, litdata and a Megatron-style bin + idx; start-up; order; a billion samples.

    python -m benchmarks.loader [SAMPLES] [FOLDER]

All sides hold the same samples (3,264 uint16 indices and a caption each) and return int64 tensors (8, 3264) and captions. One
thread reads them in turn in one process, from a warm cache. Ours (which verifies every checksum), the Megatron-style reader and
litdata read the same order of samples; webdataset streams. litdata is optional: `pip install --no-deps litdata obstore tifffile
boto3 botocore s3transfer jmespath` (--no-deps because its torchvision is a CUDA build).
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from hitvideo.data.manifest import write_manifest
from hitvideo.data.manifest_pack import write_pack
from hitvideo.data.order import ORDERS, Order
from hitvideo.data.rows import choose_caption
from hitvideo.data.spot_check import spot_check
from hitvideo.data.token_format import commit, shard_paths
from hitvideo.data.token_records import TokenSample
from hitvideo.data.token_shards import TokenDataset
from hitvideo.measuring.ceilings import copy_rate

GRIDS = ((1, 8, 8), (2, 8, 8), (4, 16, 16), (8, 16, 16))  # the paper's: 3,264 tokens
TOKENS = sum(int(np.prod(grid)) for grid in GRIDS)
PER_SHARD, GLOBAL, MICRO, READ_TOGETHER, ROUNDS = 1000, 256, 8, 256, 5
BYTES_PER_TOKEN = 2 + 8  # read as uint16, written as int64

Batch = tuple[torch.Tensor, list[str]]


def flat_codes(number: int, tokens: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 1 << 16, tokens, dtype=np.uint16)


def caption(number: int) -> str:
    return f"a red square number {number} moves slowly to the right in front of a green wall while it rains"


def write_ours(out: Path, samples: int, grids: tuple[tuple[int, int, int], ...] = GRIDS) -> Path:
    out.mkdir()
    sizes = [int(np.prod(grid)) for grid in grids]
    receipts = []
    for shard in range(samples // PER_SHARD):
        rows = []
        for number in range(shard * PER_SHARD, (shard + 1) * PER_SHARD):
            parts = np.split(flat_codes(number, sum(sizes)), np.cumsum(sizes)[:-1])
            codes = [part.reshape(grid) for part, grid in zip(parts, grids, strict=True)]
            rows.append(TokenSample(f"{number:09d}", codes, caption(number), {"fps": 8.0, "source": "made up"}))
        receipt = {"stem": f"{shard:06d}", "samples_in": PER_SHARD, "samples_out": PER_SHARD, "rejected": 0}
        commit(out, receipt["stem"], rows, receipt, "x")
        receipts.append(json.loads(shard_paths(out, receipt["stem"])[2].read_text()))
    hierarchy = {"levels": [{"num_bits": 16} for _ in grids]}
    return write_manifest(out, receipts, {"grids": [list(grid) for grid in grids], "hierarchy": hierarchy})


def start_up(folder: Path, samples: int = 100_000) -> None:
    """Time from a manifest's path to one sample in the middle. Small samples suffice: opening does not depend on their size."""
    manifest = write_ours(folder, samples, ((1, 2, 2),))
    start = time.perf_counter()
    first = TokenDataset(manifest).read([samples // 2])
    taken = time.perf_counter() - start
    assert first.codes[0].tolist() == flat_codes(samples // 2, 4).tolist()
    start = time.perf_counter()
    checked, _ = spot_check([TokenDataset(manifest)], 0)
    each = (time.perf_counter() - start) / checked
    print(f"start-up with {samples} samples in {samples // PER_SHARD} shards: {taken:.3f} s to the first sample;", end=" ")
    print(f"{each * 1e3:.1f} ms to hold a shard against its receipt")


def orders(samples: int = 10_000_000, batch: int = 512, steps: int = 400) -> None:
    """Both versions of the data order in turn: time for a global batch, and how much of the dataset it holds."""
    figures: dict[int, list[float]] = {version: [] for version in ORDERS}
    for turn in range(ROUNDS + 1):
        for version, kind in ORDERS.items():
            order = kind(samples, turn, READ_TOGETHER)
            start = time.process_time()
            for step in range(steps):
                order(np.arange(step * batch, (step + 1) * batch))
            if turn:
                figures[version].append((time.process_time() - start) / steps * 1e3)
    for version, kind in ORDERS.items():
        order = kind(samples, 1, READ_TOGETHER)
        batches = [order(np.arange(step * batch, (step + 1) * batch)) for step in range(steps)]
        blocks = statistics.fmean(len(np.unique(found // READ_TOGETHER)) for found in batches)
        sources = statistics.fmean(len(np.unique(found // 8)) for found in batches)
        taken = statistics.median(figures[version])
        print(f"order version {version}: {taken:.3f} ms for {batch} of {samples:.0e} samples,", end=" ")
        print(f"of {blocks:.0f} blocks of {READ_TOGETHER} and {sources:.0f} sources of 8")


def write_megatron(out: Path, samples: int) -> None:
    """Write one .bin of all codes, one of all captions, and an index of offsets, as Megatron's IndexedDataset does."""
    out.mkdir()
    ends = []
    with (out / "codes.bin").open("wb") as codes, (out / "text.bin").open("wb") as text:
        for number in range(samples):
            codes.write(flat_codes(number).tobytes())
            text.write(caption(number).encode())
            ends.append((codes.tell(), text.tell()))
    np.save(out / "idx.npy", np.array([(0, 0), *ends], np.int64))


def write_litdata(out: Path, samples: int) -> bool:
    try:
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        return False
    writer = BinaryWriter(str(out), chunk_bytes="64MB")
    for number in range(samples):
        writer[number] = {"codes": flat_codes(number), "caption": caption(number)}
    writer.done()
    writer.merge()
    return True


def micro_batches(samples: int) -> Iterator[np.ndarray]:
    """Sample numbers of each micro-batch, in the order of a run on one rank."""
    order = Order(samples, 0, READ_TOGETHER)
    for start in range(0, samples, GLOBAL):
        yield from order(np.arange(start, start + GLOBAL)).reshape(-1, MICRO)


def ours(manifest: Path, samples: int) -> Iterator[Batch]:
    data = TokenDataset(manifest)
    for numbers in micro_batches(samples):
        rows = data.read(numbers)
        assert not rows.damaged
        yield torch.from_numpy(rows.codes), [choose_caption(text, 0.0) for text in rows.captions]


def megatron(folder: Path, samples: int) -> Iterator[Batch]:
    codes = np.memmap(folder / "codes.bin", mode="r", order="C")
    text = np.memmap(folder / "text.bin", mode="r", order="C")
    ends = np.load(folder / "idx.npy", mmap_mode="r")
    views = memoryview(codes), memoryview(text)
    for numbers in micro_batches(samples):
        rows, captions = [], []
        for number in numbers:  # like GPTDataset: one array per sample, then collate
            (code_start, text_start), (code_end, text_end) = ends[number], ends[number + 1]
            row = np.frombuffer(views[0], np.uint16, (code_end - code_start) // 2, code_start)
            rows.append(torch.from_numpy(row.astype(np.int64)))
            captions.append(bytes(views[1][text_start:text_end]).decode())
        yield torch.stack(rows), captions


def plain_webdataset(folder: Path, _samples: int) -> Iterator[Batch]:
    import webdataset

    items = iter(webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False))
    while group := list(islice(items, MICRO)):
        rows = [torch.from_numpy(np.load(io.BytesIO(item["codes.npy"])).astype(np.int64)) for item in group]
        yield torch.stack(rows), [json.loads(item["json"])["caption"] for item in group]


def litdata(folder: Path, samples: int) -> Iterator[Batch]:
    from litdata import StreamingDataset

    data = StreamingDataset(str(folder))
    for numbers in micro_batches(samples):
        items = [data[int(number)] for number in numbers]
        yield torch.stack([torch.from_numpy(item["codes"].astype(np.int64)) for item in items]), [i["caption"] for i in items]


def rate(side: Callable[[], Iterator[Batch]], batches: int) -> float:
    """Million tokens per CPU-second of this process."""
    running = side()
    next(running)
    start = time.process_time()
    for _ in islice(running, batches):
        pass
    return batches * MICRO * TOKENS / (time.process_time() - start) / 1e6


def resident() -> float:
    """Resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def billion(folder: Path) -> None:
    """Open a made-up index of 10^6 shards and 10^9 samples. Its entries are a hole in a sparse file and read as zeros."""
    shards, per_shard = 1_000_000, 1000
    path = folder / "manifest.pack"
    counts = np.full((shards, 1), per_shard, np.int64)
    write_pack(path, {"digest": "x", "grids": [list(g) for g in GRIDS]}, [f"{s:09d}" for s in range(shards)], counts, [])
    (folder / "manifest.json").write_text("{}")
    before, start = resident(), time.perf_counter()
    data = TokenDataset(folder / "manifest.json")
    opened = time.perf_counter() - start
    order = Order(len(data), 0, READ_TOGETHER)
    start = time.perf_counter()
    for step in range(100):
        places = order(np.arange(step * 7_654_321_987, step * 7_654_321_987 + 1024))
        data._index[places]
    taken = (time.perf_counter() - start) / 100
    grown = resident() - before
    size = path.stat().st_size / 1e9
    print(f"10^6 shards, {len(data):.0e} samples, {size:.0f} GB of index: opened in {opened:.2f} s; order and entries of a")
    print(f"  global batch of 1024 in {taken * 1e3:.1f} ms; memory grew by {grown:.0f} MB in all")


def main() -> None:
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)
        (folder / "huge").mkdir()
        billion(folder / "huge")
        start_up(folder / "many")
        orders()
        manifest = write_ours(folder / "ours", samples)
        write_megatron(folder / "megatron", samples)
        sides: dict[str, Callable[[], Iterator[Batch]]] = {
            "ours": lambda: ours(manifest, samples),
            "megatron-style": lambda: megatron(folder / "megatron", samples),
            "webdataset": lambda: plain_webdataset(folder / "ours", samples),
        }
        if write_litdata(folder / "litdata", samples):
            sides["litdata"] = lambda: litdata(folder / "litdata", samples)
        else:
            print("without litdata, which is not installed; the module's docstring has the command")
        (codes, texts), (other, other_texts) = (next(sides[name]()) for name in ("ours", "megatron-style"))
        assert torch.equal(codes, other)
        assert texts == other_texts
        figures: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(ROUNDS + 1):
            for name, side in sides.items():
                found = rate(side, 300 if name in ("webdataset", "litdata") else min(3000, samples // MICRO - 1))
                if turn:
                    figures[name].append(found)
        medians = {name: statistics.median(rates) for name, rates in figures.items()}
        for name, found in medians.items():
            print(f"{name:16} {found:7.1f} M tokens per CPU-second   ours : {name} = {medians['ours'] / found:.2f}")
        ceiling = copy_rate(torch.device("cpu")) / BYTES_PER_TOKEN / 1e6
        print(f"a copy of as many bytes reaches {ceiling:.0f} M tokens per second; ours: {medians['ours'] / ceiling:.0%} of it")


if __name__ == "__main__":
    main()
