"""What a run's directory says of it, read without torch, MLflow or the typed settings: state, rows, settings, tokens.

    done       DONE is there, or a job has ended well     running    held by a process whose heartbeat is fresh
    failed     a rank failed, hung, or its job did        stale      held, but the heartbeat is old: killed, or its node is lost
    stopped    it ended on request, or never began

Runs may come from somebody else: nothing of them is followed to another place, and their YAML may be hostile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hitvideo.errors import ConfigError, short
from hitvideo.hierarchy import Extent, Hierarchy
from hitvideo.runs import history
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.ownership import LOCK

STAMPS = ("step", "time", "attempt")
"""Of a row of metrics.jsonl; everything else in it is a metric."""
_DEEPEST, _LARGEST = 50, 1 << 20
_TAIL = 1 << 18  # bytes
_LEAST_PATIENCE = 60.0  # seconds: a busy file system delays heartbeats
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Overview:
    """One run, as its directory shows it. Everything is read when it is asked for."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.name = directory.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The resolved settings by dotted keys, lists of mappings with the number as a part: `phases.0.steps`.

        Raises ConfigError.
        """
        return dict(_leaves(self._content))

    @cached_property
    def _content(self) -> dict[str, Any]:
        return _read_plain(self.directory.config)

    @property
    def program(self) -> str:
        return str(self.settings.get("program", ""))

    @property
    def steps(self) -> int | None:
        """train.steps; None: the program has no steps."""
        found = self.settings.get("train.steps")
        return found if type(found) is int else None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """All logged rows that count, by step."""
        return history.read_rows(self.directory.path)

    @cached_property
    def last_rows(self) -> list[dict[str, Any]]:
        """The rows at the end of the file, the newest and a validated one among them if there are any: quick for long runs."""
        path = self.directory.metrics_file
        size = path.stat().st_size if path.is_file() else 0
        if size <= _TAIL or "rows" in self.__dict__:
            return self.rows
        with path.open("rb") as file:
            file.seek(size - _TAIL)
            file.readline()
            start = file.tell()
        found = history.fold(line.content for line in history.read_lines(path, start))
        validated = any(key.startswith("validation") for row in found for key in row)
        return found if validated or (found and not self.settings.get("train.validation_batches")) else self.rows

    @property
    def step(self) -> int | None:
        """Of the newest row."""
        return self.last_rows[-1]["step"] if self.last_rows else None

    @cached_property
    def changes(self) -> list[dict[str, Any]]:
        """The lines of changes.jsonl."""
        return json_lines(self.directory.changes)

    def seconds_since_a_sign(self, now: float) -> float | None:
        """Since the newest heartbeat or row; None: the run has left neither."""
        signs = [*self.directory.heartbeats.glob("rank-*.json"), self.directory.metrics_file]
        times = [path.stat().st_mtime for path in signs if path.is_file()]
        return max(now - max(times), 0.0) if times else None

    def state(self, now: float | None = None) -> str:
        """One of the words of the module's docstring."""
        directory, now = self.directory, time.time() if now is None else now
        if directory.done:
            return "done"
        if any(directory.heartbeats.glob("FAULT*")) or any(directory.heartbeats.glob("HANG*")):
            return "failed"
        if (directory.path / LOCK).exists():
            every = self.settings.get("faults.heartbeat_seconds")
            patience = max(_LEAST_PATIENCE, 3 * every if isinstance(every, int | float) else 0)
            silent = self.seconds_since_a_sign(now)
            return "running" if silent is not None and silent < patience else "stale"
        ended = history.attempts(directory.path)[-1:]
        jobs = json_lines(directory.attempts_log)[-1:]
        failed = any(each.get("status") == "FAILED" for each in ended) or any(each.get("kind") == "fault" for each in jobs)
        if ended and ended[0].get("status") == "FINISHED":  # a tokenization job leaves no DONE
            return "done"
        return "failed" if failed else "stopped"

    def tokens(self, step: int) -> int | None:
        """Tokens of the rows that `step` steps took, by the batch and the clip each of them had; None: it cannot be told."""
        try:
            batches, lengths = self._batches(), self._lengths()
        except (ConfigError, ValueError, TypeError, KeyError):
            return None
        ends = sorted({step, *(int(end) for end, _ in (*batches, *lengths) if end < step)})
        total = begin = 0
        for end in ends:
            total += (end - begin) * _at(batches, begin) * _at(lengths, begin)
            begin = end
        return total

    @property
    def tokens_per_step(self) -> int | None:
        """Of the newest step."""
        step = self.step or 0
        before, after = self.tokens(step), self.tokens(step + 1)
        return None if before is None or after is None else after - before

    def _batches(self) -> list[tuple[float, int]]:
        """(end, samples of a step before this end), in order; the last has no end."""
        changed = [row for row in self.changes if row.get("key") == "train.global_batch"]
        return [*((row["step"], int(row["old"])) for row in changed), (float("inf"), int(self.settings["train.global_batch"]))]

    def _lengths(self) -> list[tuple[float, int]]:
        """(end, tokens of a row before this end), in order; the last has no end."""
        content = self._content
        hierarchy, clip = Hierarchy.model_validate(content["hierarchy"]), content["clip"]
        whole = Extent(int(clip["frames"]), int(clip["height"]), int(clip["width"]))
        if self.program == "pretrain":
            return [(float("inf"), int(content["text"]["window"]) + hierarchy.tokens(whole) + 1)]  # 1: EOV
        found, end = list[tuple[float, int]](), 0
        for phase in content.get("phases") or [{"steps": 0}]:
            end += int(phase["steps"])
            height, width = phase.get("size") or (whole.height, whole.width)
            found.append((end, hierarchy.tokens(Extent(whole.frames, int(height), int(width)))))
        return [*found[:-1], (float("inf"), found[-1][1])]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines, without those that cannot be read; none if it is missing."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [each for each in found if isinstance(each, dict)]


def find_runs(paths: Sequence[Path]) -> list[Overview]:
    """Runs, and those directly inside of folders that hold runs, by name within a folder. Raises ConfigError if none is."""
    found: dict[Path, Overview] = {}
    for path in paths:
        inside = [path] if (path / "config.yaml").is_file() else sorted(file.parent for file in path.glob("*/config.yaml"))
        if not inside:
            what = "no run directory, nor a folder that holds some" if path.is_dir() else "no such folder"
            raise ConfigError(f"{short(path)}: {what}; give runs/NAME, or the folder that run.root names")
        for each in inside:
            found.setdefault(each.resolve(), Overview(RunDirectory(each)))
    return list(found.values())


def _at(pieces: Sequence[tuple[float, int]], step: int) -> int:
    return next(value for end, value in pieces if step < end)


def _read_plain(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with YAML's own types; fast. Raises ConfigError, also for what few bytes grow large with."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: larger than {_LARGEST} bytes")
        text, depth = path.read_text(encoding="utf-8"), 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                raise ConfigError(f"{path}: aliases and nesting of more than {_DEEPEST} are not read")
        content = yaml.load(text, Loader=_Loader)  # a safe loader
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: cannot be read: {short(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of keys, but is a {type(content).__name__}")
    return content


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and the values that are no mappings and no lists of mappings."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list) and node and all(isinstance(part, Mapping) for part in node):
        for number, part in enumerate(node):
            yield from _leaves(part, f"{prefix}.{number}")
    else:
        yield prefix, node
