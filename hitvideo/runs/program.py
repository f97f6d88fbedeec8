"""What every program does: words, exit codes, stop."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hitvideo.errors import ConfigError
from hitvideo.runs.ownership import write_fault

EXIT_DONE, EXIT_FAULT, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 75
"""Of every program here; stopped means resumable, and tells a job to requeue."""


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


EXIT_HANG = 70
