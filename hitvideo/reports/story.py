"""What happened to one run: its starts and ends, returns to a checkpoint, settings changed on the way, checkpoints."""

from __future__ import annotations

import time
from typing import Any

from hitvideo.checkpoints.listing import complete, step_of
from hitvideo.reports.overview import Overview, json_lines
from hitvideo.reports.tables import duration, render
from hitvideo.runs import history
from hitvideo.runs.secrets import masked


def story(run: Overview) -> dict[str, Any]:
    """All of it, by part; a part without content is an empty list. Raises ConfigError for damaged settings."""
    directory = run.directory
    alarms = [*directory.heartbeats.glob("FAULT*"), *directory.heartbeats.glob("HANG*")]
    return {
        "run": run.name,
        "program": run.program,
        "state": run.state(),
        "seconds_since_a_sign": run.seconds_since_a_sign(time.time()),
        "step": run.step,
        "steps": run.steps,
        "tokens": run.tokens(run.step) if run.step is not None else None,
        "faults": [masked(path.read_text(errors="replace")).strip() or path.name for path in sorted(alarms)],
        "attempts": history.attempts(directory.path),
        "jobs": json_lines(directory.attempts_log),
        "rollbacks": json_lines(directory.rollbacks),
        "changes": run.changes,
        "skipped_steps": len(json_lines(directory.skipped)),
        "checkpoints": [
            {"step": step_of(path), "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file())}
            for path in complete(directory.checkpoints)
        ],
    }


def told(found: dict[str, Any], kind: str) -> str:
    """A `story` as text: a table for each part that has content."""
    target = f"step {found['step']} of {found['steps']}" if found["step"] is not None else "no step logged"
    age = duration(found["seconds_since_a_sign"])
    parts = [f"{found['run']}: {found['state']}, {target}" + (f", last sign {age} ago" if age else "")]
    parts += [f"fault: {text}" for text in found["faults"]]
    if found["skipped_steps"]:
        parts.append(f"{found['skipped_steps']} bad steps were skipped")
    for name in ("attempts", "jobs", "rollbacks", "changes", "checkpoints"):
        rows = [_readable(row) for row in found[name]]
        keys = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            table = render(kind, keys, [[row.get(key) for key in keys] for row in rows])
            parts.append(f"\n{'## ' if kind == 'md' else ''}{name}\n{table}")
    return "\n".join(parts)


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Times as the clock shows them, sizes in GiB; only numbers and texts are shown."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("time", "ended") and isinstance(value, int | float):
            found[key] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        elif key == "bytes":
            found["GiB"] = value / (1 << 30)
        elif isinstance(value, str | int | float | None):
            found[key] = value
        elif key in ("old", "new"):
            found[key] = str(value)
    return found
