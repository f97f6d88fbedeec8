"""Tables of captioned videos: rows of CSV, TSV, JSON lines, JSON and Parquet files, and which columns mean what."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from hitvideo.data.captions import CAPTION_FIELDS, encoding_of
from hitvideo.data.names import printable
from hitvideo.errors import ConfigError

FILE_COLUMNS = ("file", "file_name", "path", "video", "video_path", "media_path")
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
DELIMITERS = "\t,;|"
LARGEST_FIELD = 1 << 30

Row: TypeAlias = dict[str, Any]


def rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) for every row of a table. Raises ConfigError, which names file and line, if it cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: not a table that is known: {', '.join(SUFFIXES)}; or give a folder of videos")
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix == ".json":
        return _json_rows(path)
    return _json_line_rows(path) if suffix in (".jsonl", ".ndjson") else _delimited_rows(path)


def file_column(columns: Sequence[str], asked: str | None, table: Path) -> str:
    """The column that names the videos. Raises ConfigError if none or several do."""
    return _column(columns, asked, FILE_COLUMNS, "file", table)


def caption_column(columns: Sequence[str], asked: str | None, table: Path) -> str:
    """The column that holds the captions. Raises ConfigError if none or several do."""
    single = any(column.strip().lower() in CAPTION_FIELDS for column in columns)
    return _column(columns, asked, CAPTION_FIELDS if single else ("caption", "captions"), "caption", table)


def _column(columns: Sequence[str], asked: str | None, known: Sequence[str], what: str, table: Path) -> str:
    found = [column for column in columns if (column.strip().lower() in known if asked is None else column == asked)]
    listed = printable(", ".join(map(repr, columns)))
    if len(found) > 1:
        both = " and ".join(map(repr, found))
        raise ConfigError(f"{table}: the columns {both} could both be the {what}; choose one with --{what}-column")
    if not found:
        names = f"'{asked}'" if asked else " or ".join(map(repr, known))
        raise ConfigError(f"{table}: no column {names}; found {listed}; name one with --{what}-column")
    return found[0]


def _delimited_rows(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(LARGEST_FIELD)
    lines = _lines(path)
    header = next(lines, "")
    outside = "".join(header.split('"')[::2])  # without quoted names
    tabbed = path.suffix.lower() != ".csv" and "\t" in outside
    delimiter = "\t" if tabbed else max(DELIMITERS, key=outside.count)
    reader = csv.DictReader(chain([header] if header else [], lines), delimiter=delimiter, strict=True, restval="")
    try:
        columns = list(reader.fieldnames or ())
        if twice := {column for column in columns if columns.count(column) > 1}:
            raise ConfigError(f"{path}: the column '{printable(min(twice))}' is there twice; rename one")
        for row in reader:
            place = f"{path} line {reader.line_num}"
            if None in row:
                raise ConfigError(f"{place}: more fields than the {len(columns)} columns; quote fields that hold the delimiter")
            yield place, row
    except csv.Error as error:
        where = f"{path}, the row from line {reader.line_num + 1}"
        raise ConfigError(f"{where}: {error}; write a quote inside quotes twice") from error


def _json_line_rows(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _json_row(line, f"{path} line {number}")


def _json_row(line: str, place: str) -> tuple[str, Row]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{place}: not a JSON object, but {printable(line)}")
    return place, row


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        content = json.loads("".join(_lines(path)))
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ConfigError(f"{path}: not a list of JSON objects, one per video")
    return ((f"{path} item {number}", row) for number, row in enumerate(content, 1))


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"{path}: Parquet needs pyarrow; run `pip install pyarrow`, or write the table as CSV") from error
    number = 0
    try:
        file = parquet.ParquetFile(path)
        binary = (pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_fixed_size_binary)
        columns = [field.name for field in file.schema_arrow if not any(is_binary(field.type) for is_binary in binary)]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", json.loads(json.dumps(row, default=str))  # times, decimals: as text
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: cannot be read after row {number}: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file with their ends. Raises ConfigError, which names the line, if it is neither UTF-8 nor marked."""
    with path.open("rb") as raw:
        encoding = encoding_of(raw.read(4))
    number = 0
    try:
        if encoding.startswith("utf-8"):
            with path.open("rb") as raw:
                for number, line in enumerate(raw, 1):
                    yield _without_nul(line.decode(encoding if number == 1 else "utf-8"), path, number)
        else:
            with path.open(encoding=encoding, newline="") as file:
                for number, text in enumerate(file, 1):
                    yield _without_nul(text, path, number)
    except UnicodeDecodeError as error:
        found = f"{error.reason} at byte {error.start}" if encoding.startswith("utf-8") else error.reason
        raise ConfigError(f"{path} line {max(1, number)}: not {encoding.upper()} ({found}); save the table as UTF-8") from error


def _without_nul(line: str, path: Path, number: int) -> str:
    if "\0" in line:
        raise ConfigError(f"{path} line {number}: holds NUL bytes; is it UTF-16 without a mark? Save the table as UTF-8")
    return line
