"""`verify` finds every mismatch: one at a time, in each file of a dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hitvideo.data.manifest import write_manifest
from hitvideo.data.token_records import npy_bytes
from hitvideo.data.verify import verify
from hitvideo.errors import ConfigError
from hitvideo.files import json_bytes, sha256
from tests.samples import make_token_shards


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_token_shards(tmp_path_factory.mktemp("undamaged"), shards=2, per_shard=4).parent


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_bytes(json_bytes(content))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def shift_caption(out: Path) -> None:
    """An index entry that gives other places, with matching receipts and manifest: only the content shows it."""
    path = out / "000001.index.npy"
    index = np.load(path)
    index["caption"][1] += 1
    index["caption_bytes"][1] -= 2
    path.write_bytes(npy_bytes(index))
    receipts = []
    for stem in ("000000", "000001"):
        edit(out / f"{stem}.receipt.json", lambda r: r.update(index_sha256=sha256(out / f"{r['stem']}.index.npy")))
        receipts.append(json.loads((out / f"{stem}.receipt.json").read_text()))
    manifest = json.loads((out / "manifest.json").read_text())
    write_manifest(out, receipts, {name: manifest[name] for name in ("hierarchy", "grids", "video_tokenizer")})


def small_codebook(out: Path) -> None:
    """A manifest with fewer bits than the codes have, and a pack that matches it."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["hierarchy"]["levels"][3]["num_bits"] = 2
    receipts = manifest["shards"]
    write_manifest(out, receipts, {name: manifest[name] for name in ("hierarchy", "grids", "video_tokenizer")})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "tar": (lambda out: flip(out / "000001.tar", 5000), "000001.tar: its sha256"),
    "tar padding": (lambda out: flip(out / "000001.tar", -1), "000001.tar: its sha256"),
    "tar gone": (lambda out: (out / "000000.tar").unlink(), "000000.tar: missing"),
    "index": (lambda out: flip(out / "000000.index.npy", -1), "000000.index.npy: its sha256"),
    "index gone": (lambda out: (out / "000000.index.npy").unlink(), "000000.index.npy: cannot"),
    "receipt": (
        lambda out: edit(out / "000000.receipt.json", lambda r: r.update(samples_in=5)), "000000.receipt.json: missing",
    ),
    "receipt gone": (lambda out: (out / "000000.receipt.json").unlink(), "000000.receipt.json: missing"),
    "totals": (lambda out: edit(out / "manifest.json", lambda m: m.update(samples_out=9)), "manifest.json: its totals"),
    "digest": (lambda out: edit(out / "manifest.json", lambda m: m.update(digest="0")), "manifest.json: its digest"),
    "order": (lambda out: edit(out / "manifest.json", lambda m: m["shards"].reverse()), "manifest.json: its digest"),
    "count": (lambda out: edit(out / "manifest.json", lambda m: m["shards"][0].update(samples_in=5)), "5 in ≠ 4 out + 0"),
    "rejects": (lambda out: (out / "rejects.jsonl").write_text('{"key": "x"}\n'), "rejects.jsonl: "),
    "pack": (lambda out: flip(out / "manifest.pack", -1), "manifest.pack: its entries of 000001"),
    "pack cut": (lambda out: cut(out / "manifest.pack"), "manifest.pack: "),
    "another's pack": (lambda out: edit(out / "manifest.json", lambda m: m.update(grids=[])), "manifest.pack: belongs"),
    "another caption's place": (shift_caption, "sample 1, 1-0001: its index entry"),
    "codebook": (small_codebook, "level 3 holds"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_every_mismatch_is_found(undamaged: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(undamaged, out)
    assert list(verify(out / "manifest.json")) == []
    damage, message = DAMAGES[name]
    damage(out)
    faults = list(verify(out / "manifest.json"))
    assert any(message in fault for fault in faults), faults


def test_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1]")
    for name in ("manifest.json", "none.json"):
        with pytest.raises(ConfigError, match=name):
            list(verify(tmp_path / name))
