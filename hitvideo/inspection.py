"""Looking at files and at the machine: `hitvideo inspect`, `hitvideo data verify`, `hitvideo doctor`."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo import config
from hitvideo.config import ConfigError, Section
from hitvideo.data import ShardError
from hitvideo.data.token_format import parse_sample, sha256, shard_paths
from hitvideo.data.token_shards import TokenDataset
from hitvideo.hierarchy import Clip, Hierarchy

PACKAGES = ("torch", "deepspeed", "megatron-core", "webdataset", "sentencepiece", "mlflow", "av", "flash-attn", "apex")


class HierarchyFile(Section):
    """A hierarchy part: what `inspect` reads of a YAML."""

    video: Clip
    hierarchy: Hierarchy


def describe(path: Path) -> dict[str, Any]:
    """Figures of a hierarchy YAML (or a run that has one), a manifest, a token shard or a video shard."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix in (".yaml", ".yml"):
        content = {key: value for key, value in config.resolve(path).items() if key in HierarchyFile.model_fields}
        part = config.build(HierarchyFile, content, str(path))
        return part.hierarchy.describe(part.video.extent)
    if path.suffix == ".json":
        return _describe_manifest(TokenDataset(path))
    if path.suffix == ".tar":
        is_token_shard = shard_paths(path.parent, path.stem)[1].is_file()
        return _describe_token_shard(path) if is_token_shard else _describe_video_shard(path)
    raise ConfigError(f"{path}: give a hierarchy .yaml, a manifest .json, or a shard .tar")


def _describe_manifest(dataset: TokenDataset) -> dict[str, Any]:
    manifest = dataset.manifest
    kept = ("samples_in", "samples_out", "rejected", "digest", "grids", "video_tokenizer")
    rows = [{name: shard[name] for name in ("stem", "samples_out", "rejected")} for shard in manifest["shards"]]
    return {**{name: manifest[name] for name in kept}, "samples": rows}


def _describe_token_shard(path: Path) -> dict[str, Any]:
    index = np.load(shard_paths(path.parent, path.stem)[1], allow_pickle=False)
    rows = []
    with path.open("rb") as file:
        for entry in index:
            file.seek(int(entry["offset"]))
            sample = parse_sample(file.read(int(entry["length"])))
            grids = [list(indices.shape) for indices in sample.codes]
            rows.append({"key": sample.key, "grids": grids, "caption": sample.caption})
    return {"kind": "token shard", "count": len(rows), "samples": rows}


def _describe_video_shard(path: Path) -> dict[str, Any]:
    from hitvideo.data.video_shards import read, scan

    listing = scan(path)
    rows = [
        {"key": member.key, "bytes": member.video.size, "caption": read(path, member).caption} for member in listing.samples
    ]
    return {"kind": "video shard", "count": len(rows), "bad": listing.bad, "truncated": listing.truncated, "samples": rows}


def verify(manifest: Path) -> list[str]:
    """Every lie in a dataset, one line each: checksums of tar and index, counts that add up, every sample's crc32."""
    try:
        dataset = TokenDataset(manifest)
    except ShardError as error:
        return [str(error)]
    faults = []
    for receipt in dataset.manifest["shards"]:
        tar, index, _ = shard_paths(dataset.path.parent, receipt["stem"])
        for path, expected in ((tar, receipt["tar_sha256"]), (index, receipt["index_sha256"])):
            if not path.is_file():
                faults.append(f"{path}: missing")
            elif sha256(path) != expected:
                faults.append(f"{path}: its sha256 is not the receipt's")
        if receipt["samples_in"] != receipt["samples_out"] + receipt["rejected"]:
            faults.append(f"{tar}: {receipt['samples_in']} in ≠ {receipt['samples_out']} out + {receipt['rejected']} rejected")
    for number in range(len(dataset)):
        try:
            dataset[number]
        except (ShardError, OSError) as error:
            faults.append(str(error))
    return faults


def doctor() -> dict[str, str]:
    """What this machine has, and which fast paths are live."""
    import torch

    from hitvideo.ops.attention import flash_missing
    from hitvideo.ops.norm import apex_missing

    device = "cuda" if torch.cuda.is_available() else "cpu"
    findings = {"python": platform.python_version(), "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for package in PACKAGES:
        try:
            findings[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            findings[package] = "not installed"
    no_flash, no_apex = flash_missing(device, torch.bfloat16), apex_missing(device)
    findings["attention"] = f"sdpa ({no_flash})" if no_flash else "flash"
    findings["norm"] = f"torch ({no_apex})" if no_apex else "apex"
    findings["collectives"] = "nccl" if device == "cuda" else "gloo"
    return findings
