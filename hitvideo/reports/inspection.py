"""Figures of files, for `hitvideo inspect`: hierarchies, manifests, token shards, video shards.

Samples that cannot be read are listed with what is wrong, among the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hitvideo import config
from hitvideo.config import Section
from hitvideo.data.manifest import MANIFEST
from hitvideo.data.token_format import shard_paths
from hitvideo.data.token_records import TokenSample, parse_sample
from hitvideo.data.token_shards import TokenDataset
from hitvideo.errors import ConfigError, HiTVideoError, ShardError, VideoError, short
from hitvideo.files import read_json
from hitvideo.hierarchy import ClipShape, Hierarchy
from hitvideo.processes import shared
from hitvideo.video.pixels import Frames, to_uint8

if TYPE_CHECKING:
    from hitvideo.data.video_shards import VideoMember

TAKEN = "a hierarchy .yaml, a run's config.yaml, a manifest.json or a shard .tar"


class HierarchyFile(Section):
    """The part of a YAML that `inspect` reads."""

    clip: ClipShape
    hierarchy: Hierarchy


def describe(path: Path) -> dict[str, Any]:
    """Figures of a hierarchy YAML (or a run that has one), a manifest, a token shard or a video shard. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give {TAKEN} in it")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if path.suffix in (".yaml", ".yml"):
        content = {key: value for key, value in config.resolve(path).items() if key in HierarchyFile.model_fields}
        part = config.build(HierarchyFile, content, str(path))
        return part.hierarchy.describe(part.clip.extent)
    if path.suffix == ".json":
        return _describe_manifest(path)
    if path.suffix == ".tar":
        return _describe_token_shard(path) if _is_token_shard(path) else _describe_video_shard(path)
    raise ConfigError(f"{path}: give {TAKEN}")


def describe_all(
    paths: Sequence[Path], jobs: int = 1, progress: Callable[[int], object] = lambda _: None
) -> Iterator[dict[str, Any]]:
    """Figures of each file in turn, {"file": its path, …}; {"file", "error"} if it cannot be described.

    `jobs` processes share the files; `progress` is called with 1 after each.
    """
    return shared(_described, paths, jobs, progress)


def _described(path: Path) -> dict[str, Any]:
    try:
        return {"file": str(path), **describe(path)}
    except (HiTVideoError, OSError) as error:
        return {"file": str(path), "error": short(error)}


def _describe_manifest(path: Path) -> dict[str, Any]:
    manifest = TokenDataset(path).manifest  # read from the pack, which refuses other files
    kept = ("samples_in", "samples_out", "rejected", "digest", "grids", "video_tokenizer")
    shards = read_json(path, "manifest").get("shards")
    try:
        rows = [{name: shard[name] for name in ("stem", "samples_out", "rejected")} for shard in shards or []]
        return {**{name: manifest[name] for name in kept}, "samples": rows}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: damaged manifest: {error!r}; run tokenize_shards again to write it") from error


def _is_token_shard(path: Path) -> bool:
    return shard_paths(path.parent, path.stem)[1].is_file()


def _describe_token_shard(path: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for number, sample in enumerate(_token_samples(path)):
        if isinstance(sample, ShardError):
            rows.append({"number": number, "error": short(sample)})
        else:
            grids = [list(indices.shape) for indices in sample.codes]
            rows.append({"key": sample.key, "grids": grids, "caption": sample.caption})
    return {"kind": "token shard", "count": len(rows), "samples": rows}


def _token_samples(path: Path) -> Iterator[TokenSample | ShardError]:
    """The samples of a token shard, or what is wrong with them. Raises ShardError if the index cannot be read."""
    index_path = shard_paths(path.parent, path.stem)[1]
    try:
        index = np.load(index_path, mmap_mode="r", allow_pickle=False)
        places = [(int(entry["offset"]), int(entry["length"]), int(entry["bucket"])) for entry in index]
    except (OSError, ValueError, EOFError, IndexError, MemoryError) as error:
        raise ShardError(f"{index_path}: the index cannot be read: {short(error)}") from error
    with path.open("rb") as file:
        for offset, length, bucket in places:
            file.seek(offset)
            try:
                yield parse_sample(file.read(length), bucket)
            except ShardError as error:
                yield error


def _describe_video_shard(path: Path) -> dict[str, Any]:
    from hitvideo.data.video_shards import scan

    listing = scan(path)
    rows = [{"key": member.key, "bytes": member.video.size, **_caption(path, member)} for member in listing.samples]
    return {"kind": "video shard", "count": len(rows), "bad": listing.bad, "truncated": listing.truncated, "samples": rows}


def _caption(path: Path, member: VideoMember) -> dict[str, str]:
    """A sample's caption, or what is wrong with it; the video is not read."""
    from hitvideo.data.video_shards import Span, read

    text = member.metadata or member.caption
    assert text
    try:
        return {"caption": read(path, replace(member, video=Span(text.offset, 0))).caption}
    except (ShardError, VideoError) as error:
        return {"error": short(error)}


def decode_sample(shard: Path, key: str, weights: Path | None = None) -> list[Frames]:
    """Decode a token shard's sample from its first 1, 2, … levels: a video (T, H, W, 3) for each.

    `weights`: the video tokenizer's, if they have moved since tokenizing. Raises ConfigError.
    """
    import torch

    from hitvideo.video_tokenizer.weights import load_video_tokenizer, weights_fingerprint

    if shard.suffix != ".tar" or not shard.is_file():
        raise ConfigError(f"{shard}: not a token shard; --decode takes STEM.tar of tokenize_shards")
    if not _is_token_shard(shard):
        index = shard_paths(shard.parent, shard.stem)[1].name
        raise ConfigError(f"{shard}: a video shard, or a token shard without its {index}; --decode takes a token shard")
    whole = (sample for sample in _token_samples(shard) if isinstance(sample, TokenSample))
    sample = next((sample for sample in whole if sample.key == key), None)
    if sample is None:
        raise ConfigError(f"{shard}: no sample has the key '{key}'; `hitvideo inspect {shard}` lists them")
    if not shard.with_name(MANIFEST).is_file():
        raise ConfigError(f"{shard}: no {MANIFEST} next to it, which names its video tokenizer; finish tokenizing first")
    manifest = TokenDataset(shard.with_name(MANIFEST)).manifest
    known = manifest["video_tokenizer"]
    if not weights:
        weights = Path(known["weights"])
        if not weights.is_dir():
            raise ConfigError(f"{weights}: {shard} was made with this video tokenizer; if it has moved, give --weights DIR")
    if weights_fingerprint(weights) != known["fingerprint"]:
        raise ConfigError(f"{weights} is another video tokenizer than {shard} was made with; give --weights DIR")
    video_tokenizer, _ = load_video_tokenizer(weights)
    codes = [torch.from_numpy(indices.astype(np.int64))[None] for indices in sample.codes]
    frames = manifest["buckets"][sample.bucket]["video"]["frames"]
    return [to_uint8(video[0].numpy()) for video in video_tokenizer.decode_prefixes(codes, frames)]
