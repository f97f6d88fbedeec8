"""`hitvideo benchmark`: lists and runs the comparisons in benchmarks/, and measures a new machine."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hitvideo.commands.common import path
from hitvideo.errors import ConfigError
from hitvideo.settings.named_files import yaml_file

FIRST_HOUR = "first-hour"
_ABOUT_FIRST_HOUR = "measures this machine's constants for `plan --simulate`; needs no checkout"
_CHECKOUT = Path(__file__).resolve().parents[2]


def add_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", nargs="*", help=f"of those listed; {FIRST_HOUR}: measure this machine; default: list them")
    p.add_argument("--run", type=yaml_file, default="pretrain/7b.yaml", help=f"of {FIRST_HOUR}: RUN.yaml (default 7b)")
    p.add_argument("--layers", type=int, default=4, help=f"of {FIRST_HOUR}: models of so few and of twice as many (default 4)")
    p.add_argument("--out", type=path, help=f"of {FIRST_HOUR}: FILE.yaml for the measured `cluster` section")
    p.add_argument("--json", action="store_true", help=f"print the list, or what {FIRST_HOUR} found, as JSON")


def benchmark(words: argparse.Namespace) -> int:
    """Exit code 1 if a comparison failed, or a package that it needs is not installed."""
    if FIRST_HOUR in words.name:
        if words.name != [FIRST_HOUR]:
            raise ConfigError(f"{FIRST_HOUR} keeps the whole machine busy; run it alone")
        return _first_hour(words)
    if words.out:
        raise ConfigError(f"--out is only for {FIRST_HOUR}; leave it out")
    if not words.name:
        _list(words.json)
        return 0
    rows = _rows()
    for name in words.name:
        if name not in rows:
            raise ConfigError(f"{name}: no such benchmark; there are {', '.join([*rows, FIRST_HOUR])}")
    return max(_run(rows[name]) for name in words.name)


def _rows() -> dict[str, Any]:
    """The comparisons by name. Raises ConfigError if the package was installed without its checkout."""
    if not (_CHECKOUT / "benchmarks" / "rows.py").is_file():
        raise ConfigError(
            f"the comparisons are in benchmarks/ of a checkout, which an installed package does not hold; clone the repository "
            f"and run them there; only `hitvideo benchmark {FIRST_HOUR}` works here"
        )
    if str(_CHECKOUT) not in sys.path:
        sys.path.insert(0, str(_CHECKOUT))
    return {row.name: row for row in importlib.import_module("benchmarks.rows").ROWS}


def _list(as_json: bool) -> None:
    rows = _rows()
    missing = {name: _missing(row.needs) for name, row in rows.items()}
    if as_json:
        print(json.dumps({name: {"compares": row.compares, "missing": missing[name]} for name, row in rows.items()}))
        return
    width = max(map(len, [*rows, FIRST_HOUR]))
    for name, row in rows.items():
        print(f"{name:{width}}  {row.compares} (ceiling: {row.ceiling})")
        for package in missing[name]:
            print(f"{'':{width}}  not installed: {package}")
    print(f"{FIRST_HOUR:{width}}  {_ABOUT_FIRST_HOUR}")


def _missing(needs: dict[str, str]) -> list[str]:
    """What to install of the packages that can be imported by these names."""
    return [install for module, install in needs.items() if find_spec(module) is None]


def _run(row: Any) -> int:
    missing = _missing(row.needs)
    print(f"== {row.name}: {row.compares}", flush=True)
    if missing:
        print(f"left out, because a peer is not installed: {'; '.join(missing)}")
        return 1
    for install in _missing(row.optional):
        print(f"without a peer that is not installed: {install}")
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{row.name}"], cwd=_CHECKOUT, check=False)
    return 1 if done.returncode else 0


def _first_hour(words: argparse.Namespace) -> int:
    """On all GPUs of this node, or as one of the ranks that torchrun has started."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1 and "RANK" not in os.environ:
        ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
        command = [sys.executable, *ranks, "-m", "hitvideo.commands.cli", "benchmark", *sys.argv[2:]]
        return subprocess.run(command, check=False).returncode
    from hitvideo.measuring import first_hour
    from hitvideo.settings.programs import PretrainRun, load_settings_as

    settings = load_settings_as(PretrainRun, words.run)
    found = first_hour.run(settings, words.out, words.layers, (lambda _: None) if words.json else print)
    if words.json and int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(first_hour.figures(found)))
    return 0
