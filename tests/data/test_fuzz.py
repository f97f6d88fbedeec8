"""Damaged token shards, receipts, manifests and packs: the readers name the damage; no traceback, no hang, no gigabytes."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from hitvideo.data.token_format import read_receipt
from hitvideo.data.token_records import parse_sample
from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.errors import HiTVideoError
from tests.fuzz import mutations
from tests.samples import make_token_shards

SLOWEST = 20.0  # seconds for one damaged file; each takes milliseconds
MEMORY = 1 << 30
FILES = ["manifest.json", "manifest.pack", "rejects.jsonl", "000000.receipt.json", "000000.index.npy", "000000.tar"]


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_shards(tmp_path_factory.mktemp("undamaged"), shards=2, per_shard=3).parent


def survives(out: Path) -> None:
    """Every reader of a dataset, each with a result or an error of ours."""
    manifest = out / "manifest.json"
    for reader in (
        lambda: list(verify(manifest)),
        lambda: [read_receipt(out, stem) for stem in ("000000", "000001")],
        lambda: TokenDataset(manifest).read(np.arange(6)),
        lambda: list(TokenDataset(manifest)),
        lambda: list(TokenDataset(manifest).captions()),
    ):
        message = ""
        try:
            reader()
        except HiTVideoError as error:
            message = str(error)
        assert len(message) < 2000


@pytest.mark.parametrize("count", [25, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_damaged_files(undamaged: Path, tmp_path: Path, name: str, count: int, record_property: pytest.RecordProperty) -> None:
    out = tmp_path / "out"
    shutil.copytree(undamaged, out)
    good = (out / name).read_bytes()
    survives(out)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for damaged in mutations(good, count, seed=1):
        (out / name).write_bytes(damaged)
        start = time.monotonic()
        survives(out)
        assert time.monotonic() - start < SLOWEST
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MEMORY
    record_property("mutations", count)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_records(undamaged: Path, count: int, record_property: pytest.RecordProperty) -> None:
    """Without a checksum in front of it, as when `hitvideo inspect` is given somebody's shard."""
    (entry, *_) = np.load(undamaged / "000000.index.npy")
    record = (undamaged / "000000.tar").read_bytes()[: int(entry["length"])]
    assert parse_sample(record).key == "0-0000"
    right = 0
    for damaged in mutations(record, count, seed=2):
        try:
            parse_sample(damaged)
            right += 1
        except HiTVideoError:
            pass
    assert right < count, "nothing was damaged"
    record_property("mutations", count)


def test_a_hostile_size(undamaged: Path) -> None:
    """A negative size, which would be read for ever, and one beyond the record."""
    record = bytearray((undamaged / "000000.tar").read_bytes()[:4096])
    for size in (b"-00000001000", b"77777777777\0", b"\xff" * 12):
        record[124:136] = size
        checksum = sum(record[:148]) + 8 * 32 + sum(record[156:512])
        record[148:156] = f"{checksum:06o}\0 ".encode()
        with pytest.raises(HiTVideoError):
            parse_sample(bytes(record))


def test_a_receipt_of_another_type(undamaged: Path, tmp_path: Path) -> None:
    right = json.loads((undamaged / "000000.receipt.json").read_text())
    for content in ([1], {"stem": "../../x"}, {**right, "samples_out": 1e12}):
        (tmp_path / "000000.receipt.json").write_text(json.dumps(content))
        with pytest.raises(HiTVideoError, match=r"000000\.receipt\.json"):
            read_receipt(tmp_path, "000000")
