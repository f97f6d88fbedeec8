"""Figures of files, for `hitvideo inspect`: hierarchies, manifests, token shards, video shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo import config
from hitvideo.config import Section
from hitvideo.data.manifest import MANIFEST
from hitvideo.data.token_format import TokenSample, parse_sample, shard_paths
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.video.pixels import Frames, to_uint8


class HierarchyFile(Section):
    """The part of a YAML that `inspect` reads."""

    clip: ClipShape
    hierarchy: Hierarchy


def describe(path: Path) -> dict[str, Any]:
    """Figures of a hierarchy YAML (or a run that has one), a manifest, a token shard or a video shard. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix in (".yaml", ".yml"):
        content = {key: value for key, value in config.resolve(path).items() if key in HierarchyFile.model_fields}
        part = config.build(HierarchyFile, content, str(path))
        return part.hierarchy.describe(part.clip.extent)
    if path.suffix == ".json":
        return _describe_manifest(path)
    if path.suffix == ".tar":
        is_token_shard = shard_paths(path.parent, path.stem)[1].is_file()
        return _describe_token_shard(path) if is_token_shard else _describe_video_shard(path)
    raise ConfigError(f"{path}: give a hierarchy .yaml, a manifest .json, or a shard .tar")


def _describe_manifest(path: Path) -> dict[str, Any]:
    manifest = TokenDataset(path).manifest  # read from the pack, which refuses other files
    kept = ("samples_in", "samples_out", "rejected", "digest", "grids", "video_tokenizer")
    shards = json.loads(path.read_text())["shards"]
    rows = [{name: shard[name] for name in ("stem", "samples_out", "rejected")} for shard in shards]
    return {**{name: manifest[name] for name in kept}, "samples": rows}


def _describe_token_shard(path: Path) -> dict[str, Any]:
    rows = [
        {"key": sample.key, "grids": [list(indices.shape) for indices in sample.codes], "caption": sample.caption}
        for sample in _token_samples(path)
    ]
    return {"kind": "token shard", "count": len(rows), "samples": rows}


def _token_samples(path: Path) -> Iterator[TokenSample]:
    index = np.load(shard_paths(path.parent, path.stem)[1], allow_pickle=False)
    with path.open("rb") as file:
        for entry in index:
            file.seek(int(entry["offset"]))
            yield parse_sample(file.read(int(entry["length"])), int(entry["bucket"]))


def _describe_video_shard(path: Path) -> dict[str, Any]:
    from hitvideo.data.video_shards import read, scan

    listing = scan(path)
    rows = [
        {"key": member.key, "bytes": member.video.size, "caption": read(path, member).caption} for member in listing.samples
    ]
    return {"kind": "video shard", "count": len(rows), "bad": listing.bad, "truncated": listing.truncated, "samples": rows}


def decode_sample(shard: Path, key: str, weights: Path | None = None) -> list[Frames]:
    """Decode a token shard's sample from its first 1, 2, … levels: a video (T, H, W, 3) for each.

    `weights`: the video tokenizer's, if they have moved since tokenizing. Raises ConfigError.
    """
    import torch

    from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint

    sample = next((sample for sample in _token_samples(shard) if sample.key == key), None)
    if sample is None:
        raise ConfigError(f"{shard}: no sample has the key '{key}'; `hitvideo inspect {shard}` lists them")
    if not shard.with_name(MANIFEST).is_file():
        raise ConfigError(f"{shard}: no {MANIFEST} next to it, which names its video tokenizer; finish tokenizing first")
    manifest = TokenDataset(shard.with_name(MANIFEST)).manifest
    known = manifest["video_tokenizer"]
    weights = weights or Path(known["weights"])
    if weights_fingerprint(weights) != known["fingerprint"]:
        raise ConfigError(f"{weights} is another video tokenizer than {shard} was made with; give --weights DIR")
    video_tokenizer, _ = load_video_tokenizer(weights)
    codes = [torch.from_numpy(indices.astype(np.int64))[None] for indices in sample.codes]
    frames = manifest["buckets"][sample.bucket]["video"]["frames"]
    return [to_uint8(video[0].numpy()) for video in video_tokenizer.decode_prefixes(codes, frames)]
