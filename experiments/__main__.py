"""Run an experiment: train, measure, and write its table.

    python -m experiments --list                     what each asks, what it costs, and where its table is
    python -m experiments ancestors                  train and measure with three seeds, then write the table into RESULTS.md
    python -m experiments rope --steps-scale 0.01    a trial run of a few steps; its table goes to the --out folder

It may be stopped at any time: the same command continues. A figure that is there is not measured again.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from experiments.lab import Lab, work
from experiments.tables import RESULTS, provenance, write_tables
from hitvideo.errors import HiTVideoError

NAMES = {
    "levels": "levels", "seeds": "seeds", "hierarchy-lm": "hierarchy_lm", "guidance": "guidance", "temporal": "temporal",
    "schedule": "schedule", "rope": "rope", "long": "long_video", "pyramids": "pyramids", "ancestors": "ancestors",
    "grouped": "grouped", "together": "together", "norms": "norms",
}  # fmt: skip
"""Experiments and their modules. Each has `plan` and `tables`, COSTS and TABLES; its docstring says what it asks."""


def module(name: str) -> ModuleType:
    return importlib.import_module(f"experiments.{NAMES[name]}")


def describe() -> str:
    """What `--list` prints."""
    found = []
    for name in NAMES:
        experiment = module(name)
        asks = (experiment.__doc__ or "").strip().replace("\n", "\n    ").replace("    \n", "\n")
        where = ", ".join(f"'{table}'" for table in experiment.TABLES)
        found.append(f"{name}\n    {asks}\n    Costs: {experiment.COSTS}.\n    Table: {where} in experiments/RESULTS.md")
    return "\n\n".join(found)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NAMES, nargs="?", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--list", action="store_true", help="say what each experiment asks and costs")
    parser.add_argument(
        "--out", type=Path, help="folder of shards, runs and figures (default: in runs/experiments; some share one)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps-scale", type=float, default=1.0, metavar="X", help="multiply the steps of every training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings and measurements at a time")
    parser.add_argument("--clips", metavar="SRC", help="your captioned videos, as `hitvideo data pack` takes them")
    words = parser.parse_args(arguments)
    if words.list:
        print(describe())
        return 0
    if not words.name or words.seeds < 1 or words.jobs < 1 or words.steps_scale <= 0:
        parser.error("give the name of an experiment, and seeds, jobs and steps above 0; --list shows the experiments")
    experiment = module(words.name)
    out = (words.out or Path("runs/experiments") / getattr(experiment, "FOLDER", words.name)).resolve()
    out = out if words.steps_scale == 1 else out / f"scale-{words.steps_scale:g}"
    lab = Lab(out, words.seeds, words.steps_scale, words.clips)
    try:
        work(experiment.plan(lab), words.jobs)
        results = RESULTS if words.steps_scale == 1 else lab.out / "RESULTS.md"
        command = f"python -m experiments {words.name} --seeds {words.seeds}"
        command += f" --steps-scale {words.steps_scale:g}" * (words.steps_scale != 1) + " --clips SRC" * bool(words.clips)
        write_tables(results, experiment.tables(lab), provenance(command, words.seeds))
    except HiTVideoError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"experiments: exit code {error.returncode} of: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 75 if error.returncode == 75 else 1
    print(f"tables: {results}", file=sys.stderr)
    trained = sorted(path.parent for path in (lab.out / "runs").glob("*/weights"))
    print(f"curves and pictures: hitvideo report {' '.join(map(str, trained))}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
