"""The captioned videos of a folder or a table, found before anything is packed; what is left out is counted by reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hitvideo.data.captions import checked, with_captions
from hitvideo.data.names import printable
from hitvideo.data.sample_groups import IMAGE_EXTENSIONS, TEXT_EXTENSIONS, VIDEO_EXTENSIONS
from hitvideo.data.tables import Row, caption_column, file_column, rows
from hitvideo.errors import ConfigError, VideoError

# What people also have in such folders, and the decoder does not take.
OTHER_MEDIA = (
    "gif", "apng", "avif", "heic", "heif", "bmp", "tif", "tiff", "jxl", "rm", "rmvb", "mxf", "y4m", "ivf", "h264", "264",
    "h265", "hevc", "m1v", "mod", "tod", "dv", "amv", "nut", "wtv", "insv",
)  # fmt: skip
# Beside a caption, these are not videos either.
SIDECARS = (
    *TEXT_EXTENSIONS, "json", "jsonl", "csv", "tsv", "parquet", "md", "srt", "vtt", "html", "xml", "yaml", "yml", "log", "npy",
    "npz", "pt", "safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Which columns of a table are used, and which of its rows."""

    file_column: str | None = None
    caption_column: str | None = None
    file_template: str | None = None
    """The file's path made of columns, such as '{page_dir}/{videoid}.mp4', instead of a column of paths."""
    root: Path | None = None
    """The folder that paths are relative to and must not leave; by default the table's, or the packed folder itself."""
    smallest: tuple[tuple[str, float], ...] = ()
    """(column, number): rows with less, or without a number, are filtered out."""
    largest: tuple[tuple[str, float], ...] = ()
    equal: tuple[tuple[str, str], ...] = ()
    """(column, text): rows with anything else are filtered out."""


@dataclass(frozen=True)
class Entry:
    """A video to pack."""

    path: Path
    source: str
    """Its path under the root, with `/`."""
    metadata: dict[str, Any]


@dataclass
class Sources:
    """Entries, and what is left out: reason → places."""

    entries: list[Entry] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def found(self) -> int:
        return len(self.entries) + sum(map(len, self.left_out.values()))

    def leave_out(self, reason: str, place: str) -> None:
        self.left_out.setdefault(reason, []).append(printable(place))


def find_sources(src: Path, choice: Choice) -> Sources:
    """The videos of a folder or a table. Raises ConfigError if it cannot be read."""
    if src.is_dir():
        if choice != Choice(root=choice.root):
            raise ConfigError(f"{src} is a folder: columns and filters need a table of the videos")
        return _of_folder(src, choice.root or src)
    if not src.is_file():
        raise ConfigError(f"{src} is neither a folder of videos nor a table of them; give one of the two")
    return _of_table(src, choice)


def _of_folder(folder: Path, root: Path) -> Sources:
    sources = Sources()
    real_root = root.resolve()
    for place, names in _walk(folder, real_root, sources):
        files = set(names)
        with_video = {name.rpartition(".")[0] for name in names if _extension(name) in VIDEO_EXTENSIONS}
        for name in names:
            path, kind, stem = place / name, _extension(name), name.rpartition(".")[0]
            source = path.relative_to(folder).as_posix()
            texts = [text for suffix in TEXT_EXTENSIONS if (text := f"{stem}.{suffix}") in files]
            if kind not in VIDEO_EXTENSIONS and (not kind or kind in SIDECARS or stem in with_video):
                continue
            if kind not in VIDEO_EXTENSIONS and not (kind in IMAGE_EXTENSIONS and texts):
                if texts or kind in (*IMAGE_EXTENSIONS, *OTHER_MEDIA):
                    sources.leave_out("other_kind", source)
                continue
            if problem := _misplaced(path, real_root):
                sources.leave_out(problem, source)
                continue
            try:
                beside = (place / texts[0]).read_bytes() if texts else None
                metadata = with_captions({"source": _text(source)}, beside, source)
                sources.entries.append(Entry(path, source, metadata))
            except VideoError as error:
                sources.leave_out(error.reason, source)
            except OSError:
                sources.leave_out("cannot_read", source)
    return sources


def _walk(folder: Path, root: Path, sources: Sources) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, sorted. Links to folders are followed inside the root, and each folder once."""

    def unreadable(error: OSError) -> None:
        sources.leave_out("cannot_read", f"{error.filename}/")

    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        here = Path(place)
        seen.add(here.resolve())
        inside = []
        visible = [name for name in folders if not name.startswith(".")]
        for name in sorted(visible, key=lambda name: ((here / name).is_symlink(), name)):
            real = (here / name).resolve()
            if not real.is_relative_to(root):
                sources.leave_out("outside", f"{(here / name).relative_to(folder)}/")
            elif real not in seen:
                seen.add(real)
                inside.append(name)
        folders[:] = inside
        yield here, [name for name in sorted(names) if not name.startswith(".")]


def _of_table(table: Path, choice: Choice) -> Sources:
    root = Path(os.path.abspath(choice.root or table.parent))
    real_root = root.resolve()
    sources = Sources()
    seen: set[Path] = set()
    columns: list[str] = []
    filed = captioned = ""
    for place, row in rows(table):
        if not columns:
            columns = list(row)
            filed = "" if choice.file_template else file_column(columns, choice.file_column, table)
            captioned = caption_column(columns, choice.caption_column, table)
            for column in (name for name, _ in (*choice.smallest, *choice.largest, *choice.equal)):
                if column not in columns:
                    raise ConfigError(f"{table}: no column '{column}' to filter by; found {', '.join(map(repr, columns))}")
        named = _filled(choice.file_template, row, table) if choice.file_template else row.get(filed)
        where = f"{place}: '{named}'"
        if not _passes(row, choice):
            sources.leave_out("filtered", where)
            continue
        path = Path(os.path.abspath(root / str(named or "")))
        problem = _misplaced(path, real_root) if named else "missing"
        if not problem:
            kind_known = _extension(path.name) in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)
            problem = "duplicate" if path.resolve() in seen else "" if kind_known else "other_kind"
        if problem or not path.is_relative_to(root):
            sources.leave_out(problem or "outside", where)
            continue
        seen.add(path.resolve())
        source = path.relative_to(root).as_posix()
        try:
            metadata = with_captions(checked(row, where), None, where, [captioned])
            for column in {filed, captioned} - {"caption", "captions"}:
                metadata.pop(column, None)
            metadata["caption"] = metadata["caption"].strip()
            sources.entries.append(Entry(path, source, {**metadata, "source": _text(source)}))
        except VideoError as error:
            sources.leave_out(error.reason, where)
    if not columns:
        raise ConfigError(f"{table}: no videos found; the table has no rows")
    return sources


def _filled(template: str, row: Row, table: Path) -> str:
    try:
        return template.format_map(row)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise ConfigError(f"{table}: --file-template '{template}': {problem}; name columns in braces") from error


def _passes(row: Row, choice: Choice) -> bool:
    """Whether every filter lets the row through."""
    numbers = (*((column, bound, 1) for column, bound in choice.smallest), *((c, bound, -1) for c, bound in choice.largest))
    for column, bound, sign in numbers:
        try:
            value = float(row.get(column, ""))
        except (TypeError, ValueError):
            return False
        if not sign * value >= sign * bound:
            return False
    return all(str(row.get(column, "")).strip() == text for column, text in choice.equal)


def _misplaced(path: Path, root: Path) -> str:
    """Why a path is not a file under the root (missing, outside); empty if it is one."""
    try:
        inside = path.resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a name too long, a loop of links
        return "missing"
    if not inside:
        return "outside"
    return "" if _is_file(path) else "missing"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _text(source: str) -> str:
    """The source as text that can be written."""
    return source.encode("utf-8", "backslashreplace").decode()
