"""What a start finds in its token shards, and `hitvideo data verify` would find, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hitvideo.data import spot_check as spot_checks
from hitvideo.data.spot_check import spot_check
from hitvideo.data.token_format import shard_paths
from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.errors import ShardError
from tests.samples import make_token_shards


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_token_shards(tmp_path, shards=6, per_shard=5)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut_last(tar: Path, index: Path, _receipt: Path) -> None:
    tar.write_bytes(tar.read_bytes()[: int(np.load(index)[-1]["offset"])])


BROKEN: dict[str, Callable[[Path, Path, Path], object]] = {
    "tar missing": lambda tar, _index, _receipt: tar.unlink(),
    "tar cut at a member": cut_last,
    "tar longer": lambda tar, _index, _receipt: tar.write_bytes(tar.read_bytes() + b"\0"),
    "first record": lambda tar, _index, _receipt: flip(tar, 600),
    "last record": lambda tar, index, _receipt: flip(tar, int(np.load(index)[-1]["offset"]) + 520),
    "index missing": lambda _tar, index, _receipt: index.unlink(),
    "index damaged": lambda _tar, index, _receipt: flip(index, 128 + 3 * 32 + 14),
    "receipt missing": lambda _tar, _index, receipt: receipt.unlink(),
    "receipt damaged": lambda _tar, _index, receipt: receipt.write_text("{"),
}


def test_whole_shards_pass(manifest: Path) -> None:
    assert spot_check([TokenDataset(manifest)], 0) == (6, 6)
    assert spot_check([TokenDataset(manifest)] * 2, 0) == (12, 12)


@pytest.mark.parametrize("what", BROKEN)
def test_what_verify_would_refuse_is_refused(manifest: Path, what: str) -> None:
    BROKEN[what](*shard_paths(manifest.parent, "000004"))
    assert any("000004" in fault for fault in verify(manifest))
    with pytest.raises(ShardError, match=r"000004\."):
        spot_check([TokenDataset(manifest)], 0)
    found = 0
    for part in range(4):  # each rank checks a part
        try:
            spot_check([TokenDataset(manifest)], 0, part, 4)
        except ShardError:
            found += 1
    assert found == 1


def test_a_pack_of_other_shards_is_refused(manifest: Path, tmp_path: Path) -> None:
    other = make_token_shards(tmp_path / "other", shards=6, per_shard=5)
    pack = manifest.with_suffix(".pack")
    content = bytearray(other.with_suffix(".pack").read_bytes())
    content[-40] ^= 1
    pack.write_bytes(content)
    with pytest.raises(ShardError, match=r"pack differs from .*000005"):
        spot_check([TokenDataset(manifest)], 0)


def test_only_so_many_are_looked_at(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_checks, "MOST_SHARDS", 2)
    shard_paths(manifest.parent, "000003")[0].unlink()
    found = []
    for seed in range(30):
        try:
            found.append(spot_check([TokenDataset(manifest)], seed))
        except ShardError:
            found.append(())
    assert set(found) == {(), (2, 6)}
    assert 3 <= found.count(()) <= 18, "a third of the seeds look at the missing one"


def test_an_empty_dataset_passes(tmp_path: Path) -> None:
    assert spot_check([TokenDataset(make_token_shards(tmp_path, shards=2, per_shard=0))], 0) == (2, 2)
