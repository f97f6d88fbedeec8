"""What may change while a run goes on: freely, with `--allow-change KEY` and a record, or not at all.

    python -m pretrain RUN.yaml run.name=mine train.lr=1e-4 --allow-change train.lr

Every such change is a line of changes.jsonl: {"key", "old", "new", "step", "time"}, and for other data their fingerprint.
"""

from __future__ import annotations

import argparse
import difflib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hitvideo import config
from hitvideo.errors import ConfigError, short
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun

OPTION = "--allow-change"
# None of these changes a number of any step, but train.steps, whose change is announced and recorded. Data and video
# tokenizer are compared by their fingerprints, not by their paths.
DATA_KEYS = ("data.manifest", "data.blend", "data.video_shards")
FREE_KEYS = (
    "train.steps", "train.micro_batch", "train.log_every", "train.validate_every", "train.validation_batches",
    "train.rehearse", "train.compile", "train.norm",
    *DATA_KEYS, "data.workers", "video_tokenizer.weights", "run.root",
    "faults.most_rollbacks", "faults.most_damaged", "faults.hang_seconds", "faults.heartbeat_seconds",
)  # fmt: skip
FREE_SECTIONS = ("parallel.", "checkpoint.", "tracking.", "cluster.")
# These decide what the model is, what its input means, or which samples come in which order.
FIXED_KEYS = ("data.read_together", "data.validation_samples", "data.validation_clips")
FIXED_SECTIONS = ("program", "run.", "llm.", "text.", "hierarchy.", "clip.", "video_tokenizer.", "train.start_from")


def allowed_changes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without its `--allow-change KEY` options, and their keys."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, action="append", default=[], dest="keys")
    words, others = parser.parse_known_args(arguments)
    return others, words.keys


def check_allowed(keys: Collection[str], settings: VideoTokenizerRun | PretrainRun) -> None:
    """Raise ConfigError for a key that does not exist, or whose change no run survives."""
    known = config.flat(settings)
    for key in keys:
        if _is_fixed(key):
            raise ConfigError(f"{OPTION} {short(key)}: a run keeps it to its end; begin another with train.start_from.run=RUN")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            raise ConfigError(f"{OPTION} {short(key)}: no such key" + (f"; did you mean {near[0]}?" if near else ""))


def is_free(key: str) -> bool:
    """Whether a key may change without a word."""
    return key in FREE_KEYS or key.startswith(FREE_SECTIONS)


def how_to_go_on(keys: Sequence[str]) -> str:
    """What to do about keys that have changed."""
    if any(map(_is_fixed, keys)):
        return "or choose another run.name (train.start_from.run begins one with this run's weights)"
    return f"allow the change with {' '.join(f'{OPTION} {key}' for key in keys)}, or choose another run.name"


def _is_fixed(key: str) -> bool:
    return key in FIXED_KEYS or key.startswith(FIXED_SECTIONS)


def change(key: str, old: Any, new: Any, step: int, **more: Any) -> dict[str, Any]:
    """A line of changes.jsonl."""
    return {"key": key, "old": old, "new": new, "step": step, **more, "time": round(time.time(), 3)}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none if it is missing. Raises ConfigError if one is damaged."""
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (ValueError, RecursionError):
        rows = [None]
    if not all(isinstance(row, dict) and isinstance(row.get("time"), int | float) for row in rows):
        raise ConfigError(f"{path}: damaged: each line must be an object with a time; remove the line that is not")
    return rows
