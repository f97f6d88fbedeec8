"""Looking at files and at the machine: `hitvideo inspect` and `hitvideo doctor`."""

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

PACKAGES = ("torch", "deepspeed", "megatron-core", "webdataset", "sentencepiece", "mlflow", "av", "flash-attn", "apex")


class HierarchyFile(Section):
    """A hierarchy part: what `inspect` reads of a YAML."""

    clip: ClipShape
    hierarchy: Hierarchy


def describe(path: Path) -> dict[str, Any]:
    """Figures of a hierarchy YAML (or a run that has one), a manifest, a token shard or a video shard."""
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
    manifest = TokenDataset(path).manifest  # of the pack: refuses what is none
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
    """A token shard's sample as video, from 1, 2, … all of its levels: each (T, H, W, 3).

    `weights`: the video tokenizer's, where the manifest beside the shard does not name it any more. Raises ConfigError.
    """
    import torch

    from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint

    sample = next((sample for sample in _token_samples(shard) if sample.key == key), None)
    if sample is None:
        raise ConfigError(f"{shard}: no sample of the key '{key}'; `hitvideo inspect {shard}` lists them")
    if not shard.with_name(MANIFEST).is_file():
        raise ConfigError(f"{shard}: there is no {MANIFEST} beside it to tell its video tokenizer; finish tokenizing first")
    manifest = TokenDataset(shard.with_name(MANIFEST)).manifest
    known = manifest["video_tokenizer"]
    weights = weights or Path(known["weights"])
    if weights_fingerprint(weights) != known["fingerprint"]:
        raise ConfigError(f"{weights} is another video tokenizer than {shard} was made with; give --weights DIR")
    tokenizer, _ = load_video_tokenizer(weights)
    codes = [torch.from_numpy(indices.astype(np.int64))[None] for indices in sample.codes]
    frames = manifest["buckets"][sample.bucket]["video"]["frames"]
    return [to_uint8(tokenizer.decode(codes[:k], frames)[0].numpy()) for k in range(1, len(codes) + 1)]
