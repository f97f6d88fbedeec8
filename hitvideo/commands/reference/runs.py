"""The pages of a run's directory and of exit codes."""

from __future__ import annotations

import inspect

from hitvideo.checkpoints import listing
from hitvideo.commands.reference.markdown import prose, table
from hitvideo.runs import changes, history, program
from hitvideo.runs import directory as files

EXIT_CODES = {
    "DONE": "The work is done.",
    "FAULT": "A machine, a store or this program failed. Standard error has the traceback, or what failed by name.",
    "USER": "The user can fix it: a setting, a file, an installation. One line of standard error says how.",
    "HANG": "The watchdog ended a job that made no progress; `heartbeats/` has the stacks of all threads.",
    "STOPPED": "Stopped on request, by a signal or the file `STOP`, and resumable by the same command.",
    "INTERRUPTED": "Ctrl-C.",
}
"""Names of `hitvideo.runs.program` without EXIT_, and what they mean."""

_PARTS = {
    "# A run's directory": files,
    "## metrics.jsonl and events.jsonl": history,
    "## checkpoints/": listing,
    "## What may change while a run goes on": changes,
}
"""Headings and the modules whose docstrings are below them, without their first lines, which are about the modules."""

_EXIT_CODES = """\
# Exit codes

Of `hitvideo` and of the three programs. `torchrun` turns every code but 0 into 1, and prints a traceback of its own behind the
line that matters. Some commands exit with 1 for what they find: `hitvideo doctor` if a check fails, `hitvideo data verify` if a
file is not as its receipt says, `hitvideo track sync` if a store does not answer, `hitvideo generate --same` if codes differ.

"""


def directory() -> str:
    """What is in runs/NAME/, file by file."""
    parts = []
    for heading, module in _PARTS.items():
        parts += [heading + "\n", prose("\n" + inspect.cleandoc(module.__doc__ or "").partition("\n\n")[2])]
    free = ", ".join(f"`{key}`" for key in (*changes.FREE_KEYS, *(f"{section}*" for section in changes.FREE_SECTIONS)))
    fixed = ", ".join(f"`{key}`" for key in (*changes.FIXED_KEYS, *(f"{section}*" for section in changes.FIXED_SECTIONS)))
    parts += [f"Freely: {free}.\n", f"Never: {fixed}.\n", f"All others with `{changes.OPTION} KEY`.\n"]
    return "\n".join(parts)


def exit_codes() -> str:
    """The codes of every program and command."""
    codes = {getattr(program, f"EXIT_{name}"): meaning for name, meaning in EXIT_CODES.items()}
    rows = [(str(code), meaning) for code, meaning in sorted(codes.items())]
    return _EXIT_CODES + table(("code", "meaning"), rows)
