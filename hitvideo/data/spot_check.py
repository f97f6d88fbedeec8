"""A check of some shards of a dataset, in seconds for any number of shards; `hitvideo data verify` checks all of everything."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hitvideo.data.handles import retried
from hitvideo.data.order import permute
from hitvideo.data.token_format import read_index, read_receipt, shard_paths
from hitvideo.data.token_records import TAR_BLOCK
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ShardError
from hitvideo.files import sha256

MOST_SHARDS = 1000
_THREADS = 8  # they wait for the store


def spot_check(datasets: Sequence[TokenDataset], seed: int, part: int = 0, parts: int = 1) -> tuple[int, int]:
    """Check up to 1,000 shards, drawn by `seed`; returns how many were checked, and how many there are.

    Each shard is held against its receipt: the index by its checksum, the tar by its size and three records. `part` of
    `parts`: check only every `parts`-th of the shards drawn. Raises ShardError for the first that differs.
    """
    firsts = np.cumsum([0, *(len(dataset.stems) for dataset in datasets)])
    total = int(firsts[-1])
    drawn = np.sort(permute(np.arange(min(MOST_SHARDS, total), dtype=np.uint64), max(1, total), seed)).astype(np.int64)

    def check(number: int) -> None:
        which = int(np.searchsorted(firsts, number, side="right")) - 1
        _check(datasets[which], number - int(firsts[which]), seed)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="check") as pool:
        list(pool.map(check, drawn[part::parts].tolist()))
    return len(drawn), total


def _check(dataset: TokenDataset, shard: int, seed: int) -> None:
    folder, stem = dataset.path.parent, dataset.stems[shard].decode()
    tar, index_path, receipt_path = shard_paths(folder, stem)
    receipt = retried(lambda: read_receipt(folder, stem), lambda: receipt_path)
    if receipt is None:
        raise ShardError(f"{receipt_path}: missing; {_advice(dataset)}")
    index = read_index(folder, receipt)
    if retried(lambda: sha256(index_path), lambda: index_path) != receipt["index_sha256"]:
        raise ShardError(f"{index_path}: its sha256 is not the receipt's; {_advice(dataset)}")
    end = int(index[-1]["offset"]) + int(index[-1]["length"]) if len(index) else 0
    expected = -(-(end + 2 * TAR_BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE  # as every tar ends
    found = retried(lambda: tar.stat().st_size, lambda: tar)
    if found != expected:
        raise ShardError(f"{tar}: has {found} bytes, by its index {expected}; {_advice(dataset)}")
    samples = dataset.samples_of(shard)
    if not np.array_equal(index[index["bucket"] == dataset.bucket], dataset.entries(samples)):
        raise ShardError(f"{dataset.path}: its pack differs from {index_path}; {_advice(dataset)}")
    if not samples:
        return
    between = samples[int(permute(np.zeros(1, np.uint64), len(samples), seed + shard)[0])]
    for number in sorted({samples[0], between, samples[-1]}):
        codes = dataset[number].codes
        if [indices.shape for indices in codes] != [tuple(grid) for grid in dataset.grids]:
            raise ShardError(f"{dataset.place(number)}: its grids are not those of the manifest; {_advice(dataset)}")
        if any(int(indices.max()) >> bits for indices, bits in zip(codes, dataset.num_bits, strict=True)):
            raise ShardError(f"{dataset.place(number)} has codes outside their level's codebook; {_advice(dataset)}")


def _advice(dataset: TokenDataset) -> str:
    return f"`hitvideo data verify {dataset.path}` lists all faults; delete the receipt of a bad shard and tokenize again"
