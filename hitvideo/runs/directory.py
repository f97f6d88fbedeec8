"""One run = one directory = one resolved YAML = one MLflow run: its files, its metrics, its stop signal.

    runs/NAME/
        config.yaml     resolved            metrics.jsonl   one object per logged step
        checkpoints/    full state          weights/        the model alone
        samples/        pictures, videos    report.html     DONE, written last
        heartbeats/     what each rank does     skipped.jsonl   steps left out, and their samples
        started         seconds since 1970      meeting.json    the ranks' hosts, and how fast they are
        STOP            touch it to stop: ranks agree at a step boundary, save, and exit 75
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.cluster.attempt import ENVIRONMENT, EXIT_USER, refuse_if_taken_over, write_fault
from hitvideo.config import ConfigError, Section
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

# What may differ between the start of a run and its continuation: none of it changes the numbers of a step.
FREE_KEYS = (
    "train.steps", "train.micro_batch", "train.log_every", "train.validate_every", "train.validation_batches",
    "data.manifest", "data.blend", "data.video_shards", "data.workers",
)  # fmt: skip
FREE_SECTIONS = ("parallel.", "checkpoint.", "faults.", "tracking.", "cluster.", "run.root")


class RunDirectory:
    """The files of one run. `writer` is the one process that writes them; the others only read."""

    def __init__(self, settings: VideoTokenizerRun | PretrainRun, writer: bool) -> None:
        self.path = settings.run.directory
        self.writer = writer
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.samples = self.path / "samples"
        self._refuse_another(settings)
        if writer:
            for directory in (self.checkpoints, self.samples):
                directory.mkdir(parents=True, exist_ok=True)
            if ENVIRONMENT not in os.environ:  # an attempt of Slurm's has done so at its beginning; a request since then counts
                (self.path / "STOP").unlink(missing_ok=True)
            if not (self.path / "started").is_file():
                write_text(self.path / "started", f"{time.time():.0f}\n")
            write_text(self.path / "config.yaml", config.to_yaml(settings))

    def _refuse_another(self, settings: Section) -> None:
        """A directory belongs to one run: settings that decide its numbers may not change under it."""
        existing = self.path / "config.yaml"
        if not existing.is_file():
            return
        before, now = config.flat(config.read_yaml(existing)), config.flat(settings)
        for key in sorted(before.keys() | now.keys()):
            if key not in FREE_KEYS and not key.startswith(FREE_SECTIONS) and before.get(key) != now.get(key):
                raise ConfigError(
                    f"{self.path} holds a run with {key}: {before.get(key)}, this one has {now.get(key)}; "
                    f"choose another run.name, or remove the directory to start over"
                )

    @property
    def done(self) -> bool:
        return (self.path / "DONE").is_file()

    def mark_done(self, step: int) -> None:
        if self.writer:
            refuse_if_taken_over(self.path)
            write_text(self.path / "DONE", f"{step}\n")

    def write_meeting(self, report: dict[str, Any]) -> None:
        """How the ranks met before the first step (hitvideo/parallel/meeting.py)."""
        if self.writer:
            write_text(self.path / "meeting.json", json.dumps(report, indent=1) + "\n")

    def append_metrics(self, row: dict[str, float]) -> None:
        if self.writer:
            refuse_if_taken_over(self.path)
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def forget_metrics_after(self, step: int) -> None:
        """On resuming: rows of steps that a kill has undone would stand twice."""
        path = self.path / "metrics.jsonl"
        if self.writer and path.is_file():
            kept = [row for row in read_metrics(path) if row["step"] <= step]
            write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Stop:
    """A signal or the file STOP raises a flag; the loop reads it once per step. (Under Slurm with cgroup tracking no
    signal reaches the ranks, so the batch script touches the file.)
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "STOP"
        self._signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._raise_flag)

    def _raise_flag(self, number: int, _frame: Any) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        self._signalled = True

    @property
    def requested(self) -> bool:
        return self._signalled or self._file.exists()


def command_line(module: str, description: str | None, arguments: list[str]) -> tuple[str, list[str]]:
    """What every program takes: RUN.yaml and section.key=value words."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a YAML of this program; yaml_configs/ has some")
    parser.add_argument("override", nargs="*", help="section.key=value")
    words = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    return words.run, words.override


def guarded(main: Callable[[list[str]], int]) -> None:
    """Run a program's main and exit with its code; what the user can mend is one line and exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except ConfigError as error:
        write_fault(error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
    except Exception as error:
        write_fault(error)
        raise


