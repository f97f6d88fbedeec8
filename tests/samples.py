"""Small made-up datasets for tests that need token shards but no video."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hitvideo import config
from hitvideo.data.manifest import write_manifest
from hitvideo.data.token_format import commit, shard_paths
from hitvideo.data.token_records import TokenSample
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.metrics.lpips import HEADS_FILE, TRUNK_FILE
from hitvideo.settings.video_tokenizer import LossSection
from hitvideo.video_tokenizer.losses import code_losses, distances
from hitvideo.video_tokenizer.model import Reconstruction
from tests.conftest import ROOT


def whole_loss(reconstruction: Reconstruction, video: torch.Tensor) -> torch.Tensor:
    """What a video tokenizer's default losses add up to at the first step."""
    near = distances(reconstruction.video.float(), video, LossSection())
    return near["distance"] + code_losses(reconstruction, LossSection(), 0)["codes"]


def tiny_hierarchy() -> tuple[Hierarchy, ClipShape]:
    content = config.resolve(ROOT / "yaml_configs/parts/hierarchy/tiny.yaml")
    return Hierarchy(**content["hierarchy"]), ClipShape(**content["clip"])


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


def vgg_trunk() -> nn.Sequential:
    """VGG-16's `features` as torchvision lays them out, with random weights."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    before = 3
    for number, widths in enumerate(((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))):
        body += [nn.MaxPool2d(2, 2)] if number else []
        for width in widths:
            body += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*body)


def write_lpips_weights(out: Path) -> None:
    """The two files of LPIPS in the form of the public releases, with random weights."""
    out.mkdir(exist_ok=True)
    state = {f"features.{name}": tensor for name, tensor in vgg_trunk().state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, out / TRUNK_FILE)
    widths = (64, 128, 256, 512, 512)
    heads = {f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1) for number, width in enumerate(widths)}
    torch.save(heads, out / HEADS_FILE)
