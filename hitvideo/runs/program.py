"""What every program does alike: its command line, its log, its exit codes, and stopping on request."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hitvideo.errors import HiTVideoError, short
from hitvideo.runs.ownership import write_fault
from hitvideo.runs.secrets import MaskedFormatter, masked
from hitvideo.settings.named_files import yaml_file

EXIT_DONE, EXIT_FAULT, EXIT_USER, EXIT_HANG, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 2, 70, 75, 130
"""Of every program. USER: the user can fix it. HANG: ended by the watchdog. STOPPED: resumable, and a job requeues itself.
INTERRUPTED: by Ctrl-C."""
_LONGEST_LINE = 1000  # of an error
PACKAGES = ("hitvideo", "pretrain", "tokenize_shards")


def show_log() -> None:
    """Print this package's log from INFO up on standard error, other packages' from WARNING up."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(MaskedFormatter("%(levelname)s %(name)s: %(message)s"))
    for name in PACKAGES:
        logging.getLogger(name).setLevel(logging.INFO)


def command_line(module: str, description: str | None, arguments: list[str]) -> tuple[str, list[str]]:
    """Parse what every program takes, RUN.yaml and section.key=value words, and switch the log on."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shipped = "settings of this program; `hitvideo config --list` names those that ship"
    parser.add_argument("file", metavar="RUN.yaml", type=yaml_file, help=shipped)
    parser.add_argument("override", nargs="*", help="section.key=value, on top of the file")
    words = parser.parse_args(arguments)
    show_log()
    return str(words.file), words.override


def guarded(main: Callable[[list[str]], int | None], arguments: list[str] | None = None) -> None:
    """Run a program's main and exit with its code.

    A HiTVideoError or an OSError is one line and exit code 2; Ctrl-C is one line and 130. Any other exception is a traceback
    and exit code 1.
    """
    try:
        sys.exit(main(sys.argv[1:] if arguments is None else arguments) or EXIT_DONE)
    except (HiTVideoError, OSError) as error:
        write_fault(error)
        rank = os.environ.get("RANK", "0")
        text = masked(f"error: {error}" if rank == "0" else f"error (rank {rank}): {error}")
        print("\n".join(short(line, _LONGEST_LINE) for line in text.splitlines()), file=sys.stderr)
        _leave(EXIT_USER)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        write_fault(error)
        traceback.print_exc()
        _leave(EXIT_FAULT)


def _leave(code: int) -> NoReturn:
    """Exit after an error. As one of several ranks at once, without clean-up, which would wait for the others."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized() and distributed.get_world_size() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Stop:
    """A request to stop, by a signal or by the file STOP; the loop asks once per step.

    (Under Slurm with cgroup tracking no signal reaches the ranks, so the batch script creates the file.)
    """

    def __init__(self, file: Path | None) -> None:
        """`file`: None for a process that leaves the look for the file to another one."""
        self._file = file
        self._signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._raise_flag)

    def _raise_flag(self, number: int, _frame: Any) -> None:
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the step
        if number == signal.SIGINT:
            os.write(2, b"stopping at the next step or shard; press Ctrl-C again to stop at once\n")  # print is not reentrant
        self._signalled = True

    @property
    def requested(self) -> bool:
        return self._signalled or (self._file is not None and self._file.exists())
