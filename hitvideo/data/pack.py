"""Makers of video shards: from a folder or table of captioned videos, or from rendered moving shapes."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hitvideo.data.video_shards import VIDEO_EXTENSIONS, OnProgress, VideoSample, write_shards
from hitvideo.errors import ConfigError, VideoError
from hitvideo.hierarchy import ClipShape
from hitvideo.moving_shapes import scenes
from hitvideo.video.decode import probe
from hitvideo.video.encode import encode_mp4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackSummary:
    """Counts of a source's videos: found = packed + len(no_caption)."""

    found: int
    packed: int
    no_caption: list[str]
    """Sources without a caption, which are left out."""
    unreadable: list[str]
    """Sources packed although their header cannot be read; tokenization rejects and counts them."""
    shards: list[Path]


def pack(src: Path, out: Path, per_shard: int, progress: OnProgress | None = None) -> PackSummary:
    """Pack a folder of videos with a `.txt` caption next to each, or a TSV with columns `file` and `caption`.

    Keys are file stems. Everything except the videos' content is checked before the first byte is written. Raises
    ConfigError if there are no videos or no captions, a column or a file is missing, a path leaves the TSV's folder, or two
    keys are equal.
    """
    if not src.exists():
        raise ConfigError(f"{src} is neither a folder of videos nor a TSV; give one of the two")
    entries = _tsv_entries(src) if src.is_file() else _folder_entries(src)
    if not entries:
        raise ConfigError(f"{src}: no videos found; known extensions are {', '.join(VIDEO_EXTENSIONS)}")
    keys: dict[str, str] = {}
    for _, metadata in entries:
        key, source = _safe_key(metadata["source"]), metadata["source"]
        if key in keys:
            raise ConfigError(f"{src}: '{keys[key]}' and '{source}' both get the key '{key}'; rename one of the files")
        keys[key] = source
    no_caption = [metadata["source"] for _, metadata in entries if not metadata["caption"]]
    for source in no_caption:
        log.warning("%s: '%s' has no caption and is left out", src, source)
    if len(no_caption) == len(entries):
        raise ConfigError(f"{src}: none of {len(entries)} videos has a caption; put captions into .txt files or a TSV")
    unreadable: list[str] = []

    def samples() -> Iterator[VideoSample]:
        for path, metadata in entries:
            if metadata["caption"]:
                video = path.read_bytes()
                try:
                    header = {"header": asdict(probe(video, str(path)))}
                except VideoError as error:
                    log.warning("%s; packed as it is", error)
                    unreadable.append(metadata["source"])
                    header = {}
                yield VideoSample(_safe_key(metadata["source"]), video, _extension(path), {**metadata, **header})

    shards = write_shards(samples(), out, per_shard, progress)
    return PackSummary(len(entries), len(entries) - len(no_caption), no_caption, unreadable, shards)


def write_moving_shapes(
    out: Path,
    num: int,
    seed: int,
    clip: ClipShape,
    objects: scenes.Objects,
    per_shard: int,
    progress: OnProgress | None = None,
) -> list[Path]:
    """Render `num` captioned clips into video shards; the same arguments give the same bytes."""

    def render() -> Iterator[VideoSample]:
        for key, scene, rng in scenes.scenes(num, seed, objects):
            metadata = {"caption": scenes.caption(scene), "source": "moving_shapes", "fps": clip.fps}
            yield VideoSample(key, encode_mp4(scenes.render(scene, clip, rng), clip.fps), "mp4", metadata)

    if num < 1:
        raise ConfigError(f"the number of clips must be at least 1; got {num}")
    return write_shards(render(), out, per_shard, progress)


def _folder_entries(folder: Path) -> list[tuple[Path, dict[str, str]]]:
    entries = []
    for path in sorted(folder.rglob("*")):
        source = path.relative_to(folder)
        if _extension(path) in VIDEO_EXTENSIONS and path.is_file() and not any(part.startswith(".") for part in source.parts):
            text = path.with_suffix(".txt")
            caption = text.read_text("utf-8-sig", errors="replace").strip() if text.is_file() else ""
            entries.append((path, {"source": source.as_posix(), "caption": caption}))
    return entries


def _tsv_entries(tsv: Path) -> list[tuple[Path, dict[str, str]]]:
    folder = tsv.parent.resolve()
    entries = []
    with tsv.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restkey="", restval="")
        if missing := {"file", "caption"} - set(rows.fieldnames or ()):
            raise ConfigError(f"{tsv}: no column {' and '.join(map(repr, sorted(missing)))}; found {rows.fieldnames}")
        for row in rows:
            place = f"{tsv} line {rows.line_num}"
            path = (folder / row["file"]).resolve()
            if not path.is_relative_to(folder) or Path(row["file"]).is_absolute():
                raise ConfigError(f"{place}: '{row['file']}' leaves the TSV's folder; give a relative path inside it")
            if not path.is_file() or _extension(path) not in VIDEO_EXTENSIONS:
                raise ConfigError(f"{place}: '{row['file']}' is missing or not a video: {', '.join(VIDEO_EXTENSIONS)}")
            if "" in row:
                raise ConfigError(f"{place}: more fields than the {len(rows.fieldnames or ())} columns; remove extra tabs")
            source = row.pop("file")
            entries.append((path, {**row, "source": source, "caption": row["caption"].strip()}))
    return entries


def _extension(path: Path) -> str:
    return path.suffix[1:].lower()


def _safe_key(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", Path(source).stem)
