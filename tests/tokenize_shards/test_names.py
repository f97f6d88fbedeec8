"""A tar as other people make it, `tar cf x.tar .`, all the way: names in any script, captions with anything in them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hitvideo.commands.cli import main as hitvideo
from hitvideo.data.pack import write_moving_shapes
from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.verify import verify
from hitvideo.data.video_shards import list_shards, read, scan
from tests.samples import tiny_hierarchy
from tests.tokenize_shards.helpers import words
from tests.worlds import run_ranks
from tokenize_shards.__main__ import main

# Name in the tar's folder → key of its token sample.
NAMES = {
    "東京.mp4": "東京",
    "café.mp4": "café",
    b"caf\xe9.mp4": "caf\\udce9",  # Latin-1, which is no UTF-8
    "v1.0/a.mp4": "v1.0/a",
    "a.b.mp4": "a%2Eb",
    "emoji.mp4": "emoji",
    "plain.mp4": "plain",
}
SURROGATE = "cut.mp4"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shard of odd names, and next to it one of the same videos in the same order under plain names."""
    out = tmp_path_factory.mktemp("foreign")
    write_moving_shapes(out / "made", len(NAMES) + 1, 5, tiny_hierarchy()[1], "mixed", 100)
    (shard,) = list_shards(str(out / "made"))
    samples = [read(shard, member) for member in scan(shard).samples]
    for kind in ("odd", "plain"):
        folder = out / kind
        for number, (name, sample) in enumerate(zip([*NAMES, SURROGATE], samples, strict=True)):
            path = folder / os.fsdecode(name if kind == "odd" else f"n{number}.mp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.video)
            caption = {"emoji.mp4": '"a 🎬 that moves"', SURROGATE: '"cut in half \\ud83c"'}.get(str(name), '"a shape"')
            path.with_name(path.name.removesuffix("mp4") + "json").write_text(f'{{"caption": {caption}}}')
        (out / f"{kind}-shards").mkdir()
        subprocess.run(["tar", "cf", str(out / f"{kind}-shards" / "x.tar"), "."], cwd=folder, check=True)
    return out


def test_it_goes_all_the_way(foreign: Path, weights: Path, tmp_path: Path) -> None:
    assert main(words(weights, foreign / "odd-shards", tmp_path / "odd")) == 0
    assert main(words(weights, foreign / "plain-shards", tmp_path / "plain")) == 0
    odd, plain = (TokenDataset(tmp_path / kind / "manifest.json") for kind in ("odd", "plain"))
    assert {sample.key for sample in odd} == set(NAMES.values())
    expected = {sample.key: sample.codes for sample in plain}
    found = {sample.key: sample for sample in odd}
    for number, key in enumerate(NAMES.values()):
        for mine, theirs in zip(found[key].codes, expected[f"n{number}"], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert found["emoji"].caption == "a 🎬 that moves"
    (reject,) = json.loads((tmp_path / "odd" / "manifest.json").read_text())["shards"][0]["rejects"]
    assert (reject["key"], reject["reason"]) == ("cut", "bad_metadata")
    for dataset in (odd, plain):
        assert list(verify(dataset.path)) == []
        rows = dataset.read(np.arange(len(dataset)))
        assert rows.damaged == {}
        for row, sample in zip(rows.codes, dataset, strict=True):
            np.testing.assert_array_equal(row, np.concatenate([codes.reshape(-1) for codes in sample.codes]))


@pytest.mark.slow
def test_it_is_trained_on_and_drawn(foreign: Path, weights: Path, tmp_path: Path) -> None:
    assert main(words(weights, foreign / "odd-shards", tmp_path / "odd")) == 0
    assert run_ranks(trained, 1, str(tmp_path / "odd" / "manifest.json"), str(tmp_path / "runs")) == [0]
    for number, key in enumerate(NAMES.values()):
        picture = tmp_path / f"{number}.png"
        with pytest.raises(SystemExit) as ended:
            hitvideo(["inspect", str(tmp_path / "odd" / "x.tar"), "--decode", key, "--out", str(picture)])
        assert ended.value.code == 0
        assert picture.stat().st_size > 1000


def trained(manifest: str, root: str) -> int:
    from pretrain.language_model import main as pretrain
    from tests.conftest import ROOT

    run = str(ROOT / "yaml_configs/pretrain/tiny.yaml")
    small = ["train.steps=2", "train.global_batch=4", "train.micro_batch=4", "tracking.enabled=false"]
    return pretrain([run, f"data.manifest={manifest}", f"run.root={root}", "data.validation_samples=2", *small])
