"""Runs side by side: the settings in which they differ, their metrics, and what makes their losses not comparable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hitvideo.checkpoints.listing import complete, read_state
from hitvideo.errors import ConfigError
from hitvideo.reports.columns import Column, Condition, Found
from hitvideo.reports.overview import Overview

METRICS = ("step", "tokens", "loss", "validation_loss", "min:validation_loss", "tokens_per_s")
_OF_THE_PLACE = ("run.name", "run.root", "tracking.")  # differ between any two runs, and change nothing
_OF_THE_LOSS = ("loss.", "train.text_loss_weight", "train.level_balance")
_NAMES = 12  # of settings in a warning


class Warned(NamedTuple):
    """Why figures of runs are not comparable: what differs (a short stable word), and the sentence."""

    what: str
    text: str


class Comparison(NamedTuple):
    """Runs, and what a table shows of them."""

    runs: list[Overview]
    settings: dict[str, list[Any]]
    """Key → each run's value, for the keys that differ; None: the run has no such key."""
    metrics: dict[str, list[Found]]
    """Column → each run's value."""
    warnings: list[Warned]


def compare(
    runs: Sequence[Overview],
    columns: Sequence[Column] = (),
    where: Sequence[Condition] = (),
    sort: Column | None = None,
    descending: bool = False,
    top: int | None = None,
) -> Comparison:
    """The runs that meet all conditions, sorted, the first `top` of them. `columns`: instead of METRICS. Raises ConfigError."""
    kept = [run for run in runs if all(condition.holds(run) for condition in where)]
    if not kept:
        raise ConfigError(f"none of {len(runs)} runs meets the conditions")
    if sort:
        found = [(sort.of(run).value, run) for run in kept]
        known = [pair for pair in found if pair[0] is not None and pair[0] == pair[0]]
        numeric = all(isinstance(value, int | float) for value, _ in known)
        known.sort(key=lambda pair: pair[0] if numeric else str(pair[0]), reverse=descending)
        kept = [run for _, run in known] + [run for value, run in found if value is None or value != value]
    kept = kept[:top]
    shown = {column.text: [column.of(run) for run in kept] for column in columns or map(Column.parse, METRICS)}
    if not columns:
        shown = {name: values for name, values in shown.items() if any(value.value is not None for value in values)}
    return Comparison(kept, differences(kept), shown, not_comparable(kept))


def differences(runs: Sequence[Overview]) -> dict[str, list[Any]]:
    """Key → each run's value, for settings that differ. Of different programs only the keys that all have are compared."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    if len({run.program for run in runs}) > 1:
        keys = dict.fromkeys(key for key in keys if all(key in run.settings for run in runs))
    found = {}
    for key in keys:
        values = [run.settings.get(key) for run in runs]
        if not key.startswith(_OF_THE_PLACE) and any(value != values[0] for value in values):
            found[key] = values
    return found


def not_comparable(runs: Sequence[Overview]) -> list[Warned]:
    """What the runs' losses depend on besides the model's quality, where it differs."""
    asked: dict[str, tuple[Callable[[Overview], Any], str]] = {
        "program": (lambda run: run.program, "their losses measure different things"),
        "tokenizer": (_tokenizers, "a loss per token of other tokens cannot be compared; compare decoded videos"),
        "validation set": (_validation_set, "validation losses are means over other samples"),
        "tokens per step": (lambda run: run.tokens_per_step, "at equal steps they have seen unequal data; compare @tokens="),
    }
    warnings = []
    for what, (identity, consequence) in asked.items():
        groups: dict[Any, list[str]] = {}
        for run in runs:
            if (found := identity(run)) is not None:
                groups.setdefault(found, []).append(run.name)
        if len(groups) > 1:
            names = " | ".join(", ".join(names) for names in groups.values())
            warnings.append(Warned(what, f"the {what} differs ({names}): {consequence}"))
    weights = [key for key in differences(runs) if key.startswith(_OF_THE_LOSS)] if len(runs) > 1 else []
    if weights:
        names = ", ".join(weights[:_NAMES])
        warnings.append(Warned("loss weights", f"{names} differ: the sum `loss` weighs its parts differently"))
    for run in runs:
        changed = sorted({str(row.get("key")) for row in run.changes} - {"train.steps"})
        if changed:
            warnings.append(Warned("changed on the way", f"{run.name} began with another {', '.join(changed[:_NAMES])}"))
    return warnings


def _tokenizers(run: Overview) -> Any:
    """What makes a language model's tokens: the video tokenizer's fingerprint and the text tokenizer's checksum."""
    if run.program != "pretrain":
        return None
    try:
        known = run.directory.video_tokenizer()
    except ConfigError:
        known = None
    text = run.directory.text_tokenizer_file
    return known and known.fingerprint, hashlib.sha256(text.read_bytes()).hexdigest() if text.is_file() else None


def _validation_set(run: Overview) -> Any:
    """The data by their fingerprint, or by their path before the first checkpoint, and which of them are held out."""
    settings = run.settings
    data: Any = next((row["data"] for row in reversed(run.changes) if "data" in row), None)
    for path in reversed(complete(run.directory.checkpoints)) if data is None else ():
        try:
            data = read_state(path).get("fingerprint")
            break
        except ConfigError:
            continue
    paths = [str(settings.get(key)) for key in ("data.manifest", "data.video_shards", "data.blend")]
    held_out = [settings.get(key) for key in ("data.validation_samples", "data.validation_clips", "train.validation_batches")]
    return str((data or paths, held_out))
