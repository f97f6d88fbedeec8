"""What MLflow is to show of a run, read from its directory alone: it can be rebuilt at any time, anywhere.

    runs/NAME/mlflow_key           names the run in MLflow (tag `hitvideo_run`), so that none is made twice
    runs/NAME/mlflow/HASH.json     the cursor of one store: how far it has the run (hitvideo/tracking/feed.py)
    runs/NAME/mlflow_run_id        id of the MLflow run that a program attached to last
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hitvideo.errors import ConfigError
from hitvideo.files import process_name, read_json
from hitvideo.runs import history
from hitvideo.runs.changes import read_lines
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.ownership import LOCK
from hitvideo.runs.secrets import masked
from hitvideo.tracking.names import Point, points

_LEFT_OUT = ("run.root", "tracking.", "task.index")  # where a run is kept says nothing about it
_NOT_FACTS = ("attempt", "time", "step", "ended", "status", "data", "lpips")
_LONGEST_PARAMETER, _LONGEST_TAG = 6000, 5000
_QUIET_SECONDS = 120.0  # after which a run that does not write is taken for dead
_LONGEST_DIGEST = 36


class Dataset(NamedTuple):
    """What a run read. `digest` identifies it, in this run's MLflow page and in others'."""

    name: str
    digest: str
    source: str
    context: str
    """What it was read for: training, or as the video tokenizer that made the tokens."""
    profile: str = ""


class Ending(NamedTuple):
    """Whether a run goes on: RUNNING, FINISHED, FAILED or KILLED, and when it ended, in milliseconds since 1970."""

    status: str
    stamp: int | None


class View:
    """A run as MLflow shows it. Making one reads no file."""

    def __init__(self, directory: Path) -> None:
        self.run = RunDirectory(directory)

    @property
    def key(self) -> str:
        """The run's name in MLflow's tags, made once; a copy of the directory under another name is another run."""
        path = self.run.mlflow_key
        known = path.read_text().split() if path.is_file() else []
        if known[:1] == [self.run.name] and len(known) == 2:
            return known[1]
        mine = path.with_name(f".{path.name}.{process_name()}-{uuid.uuid4().hex[:8]}")
        mine.write_text(f"{self.run.name} {uuid.uuid4().hex}\n")
        try:
            if known:
                os.replace(mine, path)
            else:
                os.link(mine, path)
        except FileExistsError:  # another task was first
            pass
        except OSError:  # a file system without hard links
            os.replace(mine, path)
        finally:
            mine.unlink(missing_ok=True)
        return path.read_text().split()[1]

    @property
    def started(self) -> float:
        """Seconds since 1970 at the run's first start; 0 if nothing tells."""
        with suppress(ConfigError):
            if seconds := self.run.seconds_since_start(time.time()):
                return time.time() - seconds
        return float(next((event["time"] for event in history.read_events(self.run.path) if "time" in event), 0.0))

    def streams(self) -> list[Path]:
        """The run's files of metrics: one or, in a job of several tasks, one for each."""
        return sorted(self.run.path.glob("metrics*.jsonl"))

    def points(self, stream: Path) -> list[Point]:
        """The metrics of all rows that count."""
        started = round(self.started, 3)
        rows = history.fold(line.content for line in history.read_lines(stream))
        return [point for row in rows for point in points(row, started, prefix_of(stream))]

    def parameters(self) -> dict[str, str]:
        """Settings with dotted keys, each a number or a short text, and the facts of the newest start. Raises ConfigError."""
        content: Any = {}
        if self.run.config.is_file():
            try:
                content = yaml.safe_load(self.run.config.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                raise ConfigError(f"{self.run.config}: damaged settings: {str(error)[:200]}") from error
        leaves = {key: value for key, value in _leaves(content, "") if not key.startswith(_LEFT_OUT)}
        facts = {f"facts.{key}": value for key, value in self._facts().items() if key not in _NOT_FACTS}
        return {key: masked(str(value))[:_LONGEST_PARAMETER] for key, value in (leaves | facts).items()}

    def tags(self) -> dict[str, str]:
        """Tags to group and find runs by, and one for every recorded change of a setting."""
        facts, settings = self._facts(), self.parameters()
        tags = {"hitvideo_run": self.key, "program": settings.get("program", ""), "group": self._group()}
        if "git_commit" in facts:
            tags |= {"git_commit": facts["git_commit"], "mlflow.source.git.commit": facts["git_commit"]}
        for row in self._changes():
            tags[f"changed.{row['key']}"] = f"{row.get('old')} → {row.get('new')} after step {row.get('step')}"
        ends = [f"{each['attempt']} {each.get('status', '')}".strip() for each in history.attempts(self.run.path)]
        if ends:
            tags["attempts"] = ", ".join(ends)
        return {key: masked(str(value))[:_LONGEST_TAG] for key, value in tags.items() if value}

    def datasets(self) -> list[Dataset]:
        """The data of the run, and the video tokenizer that made them: its own MLflow run names the video shards it saw."""
        settings, found = self.parameters(), []
        record = None
        with suppress(ConfigError):
            record = self.run.video_tokenizer()
        lineage = json.dumps(record._asdict()) if record else ""
        source = next((settings[key] for key in ("data.manifest", "data.video_shards") if _given(settings, key)), "")
        digest = str(self._facts().get("data", ""))[:_LONGEST_DIGEST]
        if source and digest:
            place = Path(source)
            name = place.parent.name if place.suffix == ".json" else place.name
            found.append(Dataset(name or source, digest, source, "training", masked(lineage)))
        if record:
            weights = Path(record.weights or "video_tokenizer/weights")
            name = weights.parent.name or "video_tokenizer"
            found.append(Dataset(name, record.fingerprint[:_LONGEST_DIGEST], masked(str(weights)), "video_tokenizer"))
        return found

    def ending(self) -> Ending:
        """How the newest start ended. One that did not say so, and is not alive, was killed."""
        known = history.attempts(self.run.path)
        last = known[-1] if known else {}
        if "status" in last:
            return Ending(str(last["status"]), round(1000 * (last["ended"] or 0)))
        if alive(self.run.path):
            return Ending("RUNNING", None)
        moments = [path.stat().st_mtime for path in (*self.streams(), self.run.done_mark) if path.is_file()]
        return Ending("FINISHED" if self.run.done and not known else "KILLED", round(1000 * max(moments, default=0)))

    def described(self) -> str:
        """Changes whenever parameters, tags or datasets may have."""
        files = (self.run.config, self.run.events, self.run.changes, self.run.video_tokenizer_file)
        return " ".join(f"{path.stat().st_size}-{path.stat().st_mtime_ns}" for path in files if path.is_file())

    def _group(self) -> str:
        section = read_settings(self.run.config).get("tracking")
        return str(section.get("group") or "") if isinstance(section, dict) else ""

    def _facts(self) -> dict[str, Any]:
        known = history.attempts(self.run.path)
        return known[-1] if known else {}

    def _changes(self) -> list[dict[str, Any]]:
        with suppress(ConfigError):
            return [row for row in read_lines(self.run.changes) if isinstance(row.get("key"), str)]
        return []


def read_settings(path: Path) -> dict[str, Any]:
    """config.yaml as plain data; {} if it is missing or damaged, which `View.parameters` names."""
    with suppress(OSError, yaml.YAMLError, ValueError, RecursionError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def prefix_of(stream: Path) -> str:
    """metrics-00003.jsonl is of task 3, whose metrics are task_3/…"""
    found = re.fullmatch(r"metrics-(\d+)\.jsonl", stream.name)
    return f"task_{int(found[1])}/" if found else ""


def alive(run: Path) -> bool:
    """Whether a process seems to work on a run: on this machine by its number, elsewhere by what it wrote of late."""
    with suppress(ConfigError, OSError):
        holder = read_json(run / LOCK, "lock") if (run / LOCK).is_file() else {}
        if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
            return Path(f"/proc/{holder['pid']}").exists()
    written = [path.stat().st_mtime for path in (*run.glob("heartbeats/rank-*.json"), *run.glob("metrics*.jsonl"))]
    return time.time() - max(written, default=0.0) < _QUIET_SECONDS


def _given(settings: Mapping[str, str], key: str) -> bool:
    return settings.get(key) not in (None, "None", "")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values. A list of mappings gives keys with numbers; one of numbers is a short text."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(value, Mapping) for value in node):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{key}.{number}")
    else:
        yield key, node
