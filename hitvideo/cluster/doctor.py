"""`hitvideo doctor`: named checks of this machine and of one run, each ok, warn, fail or skip, with what fixes it.

The checks of the machine are those of a job's pre-flight (checks.py); those of a run are in doctor_run.py.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hitvideo.cluster.checks import failures, machine_checks, versions
from hitvideo.errors import ConfigError
from hitvideo.runs.secrets import MASK, masked

STATES = ("ok", "warn", "fail", "skip")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_SHORTEST_SECRET = 6  # characters: shorter values are words of any text
_FIXES = {
    "temporary folder": "free some space in it, or set TMPDIR to another folder",
    "shared memory": "docker run --shm-size=8g, or the option of your container runtime that sets /dev/shm",
    "devices": "nvidia-smi; then install the torch build that fits the driver",
    "decoder": "pip install --force-reinstall av",
}


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    name: str
    state: str
    """One of STATES."""
    found: str = ""
    fix: str = ""
    """A command, or a setting; only of warn and fail."""


Check = Callable[[], Finding]


def machine_findings() -> list[Finding]:
    """This machine's checks, and which fast paths are live. Without a GPU those of GPUs are skipped."""
    import torch

    from hitvideo.ops.attention import flash_missing, usable
    from hitvideo.ops.norm import apex_missing

    count = torch.cuda.device_count()
    checks = machine_checks(count)
    failed = failures(checks)
    findings = [
        Finding(name, "fail", failed[name], _FIXES.get(name, "")) if name in failed else Finding(name, "ok") for name in checks
    ]
    device = "cuda" if count else "cpu"
    kernel, fix = usable(device, torch.bfloat16)[0], "pip install --no-build-isolation -e '.[flash]'" if count else ""
    if kernel == "sdpa":
        reason = f"torch's own: {flash_missing(device, torch.bfloat16)}"
        findings.append(Finding("attention", "warn" if count else "skip", reason, fix))
    else:
        findings.append(Finding("attention", "ok", kernel))
    more = "" if apex_missing(device) else ", and apex's for train.norm=apex"
    return [*findings, Finding("norm", "ok", f"torch's own{more}")]


def checked(checks: Mapping[str, Check]) -> list[Finding]:
    """Run checks. One that refuses (ConfigError) or breaks is a fail of its name."""
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except ConfigError as error:
            findings.append(Finding(name, "fail", str(error), "as the text says"))
        except Exception as error:  # whatever it is, it is a finding
            findings.append(Finding(name, "fail", f"{type(error).__name__}: {error}", "hitvideo doctor --issue"))
    return findings


def facts() -> dict[str, str]:
    """Versions and the system."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"system": platform.platform(), "GPU": gpu, "collectives": "nccl" if gpu != "none" else "gloo", **versions()}


def as_json(about: Mapping[str, str], findings: Sequence[Finding]) -> dict[str, Any]:
    """{"facts": {…}, "checks": [{"name", "state", "found", "fix"}, …]}."""
    return {"facts": dict(about), "checks": [asdict(each) for each in findings]}


def as_text(about: Mapping[str, str], findings: Sequence[Finding]) -> str:
    """A line for each, with the fix below."""
    lines = [f"{name:20} {value}" for name, value in about.items()]
    for each in findings:
        lines.append(f"{each.state:4} {each.name:16} {masked(each.found)}".rstrip())
        if each.fix and each.state in ("warn", "fail"):
            lines.append(f"     fix: {each.fix}")
    counts = ", ".join(f"{count} {state}" for state in STATES if (count := sum(each.state == state for each in findings)))
    return "\n".join([*lines, counts])


def as_issue(about: Mapping[str, str], findings: Sequence[Finding]) -> str:
    """The text as a block to paste in public: no names of user and host, no home folder, no secrets."""
    return f"```\n{scrubbed(as_text(about, findings))}\n```"


def scrubbed(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text without this user's name, home and host, without URIs' secrets and those that the environment holds."""
    environment = os.environ if environment is None else environment
    secrets: Collection[str] = {value for name, value in environment.items() if _SECRET.search(name)}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, MASK) if len(value) >= _SHORTEST_SECRET else text
    text = masked(text)
    home = environment.get("HOME") or str(Path.home())
    text = text.replace(home, "~") if len(home) > 1 else text
    text = re.sub(r"/(home|Users|scratch|work)/[^\s/:'\"]+", r"/\1/USER", text)
    for name, value in (("USER", environment.get("USER", "")), ("HOST", socket.gethostname())):
        text = re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", name, text) if value else text
    return text
