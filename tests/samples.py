"""Small made-up datasets for tests that need token shards but no video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hitvideo import config
from hitvideo.data.manifest import write_manifest
from hitvideo.data.token_format import TokenSample, commit, shard_paths
from hitvideo.hierarchy import Clip, Hierarchy

ROOT = Path(__file__).resolve().parents[1]


def tiny_hierarchy() -> tuple[Hierarchy, Clip]:
    content = config.resolve(ROOT / "yaml_configs/parts/hierarchy/tiny.yaml")
    return Hierarchy(**content["hierarchy"]), Clip(**content["video"])


def make_token_shards(out: Path, shards: int = 2, per_shard: int = 40, hierarchy: Hierarchy | None = None) -> Path:
    """Token shards of sorted random codes (so that there is something to learn); returns the manifest."""
    tiny, clip = tiny_hierarchy()
    hierarchy = hierarchy or tiny
    grids = hierarchy.grids(clip.extent)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    receipts = []
    for shard in range(shards):
        samples = []
        for number in range(per_shard):
            shapes = zip(hierarchy.levels, grids, strict=True)
            codes = [np.sort(rng.integers(0, 1 << level.num_bits, grid)) for level, grid in shapes]
            colour = ("red", "green", "blue")[number % 3]
            samples.append(TokenSample(f"{shard}-{number:04d}", codes, f"a {colour} thing, number {number % 7}", {}))
        stem = f"{shard:06d}"
        receipt = {"stem": stem, "samples_in": per_shard, "samples_out": per_shard, "rejected": 0}
        assert commit(out, stem, samples, receipt, "test")
        receipts.append(json.loads(shard_paths(out, stem)[2].read_text()))
    description = {
        "hierarchy": hierarchy.model_dump(mode="json"),
        "grids": [list(grid) for grid in grids],
        "video_tokenizer": {"fingerprint": "made-up", "weights": ""},
    }
    return write_manifest(out, receipts, description)
