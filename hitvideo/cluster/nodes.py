"""What a job does about its nodes: which are unfit by the pre-flight's reports, which to exclude, how the ranks are bound."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any


def reports(folder: Path, hosts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Host → what `hitvideo.cluster.preflight` reported of it. A host may have a domain that its report's name lacks."""
    found = {host: path for host in hosts for name in (host.split(".")[0], host) if (path := folder / f"{name}.json").is_file()}
    return {host: json.loads(path.read_text()) for host, path in found.items()}


def unfit(folder: Path, hosts: Sequence[str]) -> dict[str, str]:
    """Host → why it must not train: a fault, no report, or something in which it differs from most."""
    found = reports(folder, hosts)
    bad = {host: "its pre-flight did not report" for host in hosts if host not in found}
    bad |= {host: "; ".join(report["faults"]) for host, report in found.items() if report["faults"]}
    for part, what in (("versions", "other packages"), ("hardware", "other GPUs or drivers")):
        facts = {host: report.get(part, {}) for host, report in found.items()}
        unlike = differences(facts, faulty=bad.keys())
        bad |= {host: f"has {what} than {text}" for host, text in unlike.items() if host not in bad}
    return bad


def differences(facts: Mapping[str, Mapping[str, str]], faulty: Collection[str]) -> dict[str, str]:
    """Host → in what it differs from the largest group of equal hosts, first by its hosts without a fault."""
    groups: dict[str, list[str]] = {}
    for host, mine in facts.items():
        groups.setdefault(json.dumps(mine, sort_keys=True), []).append(host)
    if len(groups) < 2:
        return {}
    most = max(groups.values(), key=lambda hosts: (sum(host not in faulty for host in hosts), len(hosts)))
    usual = facts[most[0]]
    found = {}
    for host, mine in facts.items():
        keys = sorted(usual.keys() | mine.keys())
        texts = [f"{key} {mine.get(key)} (theirs {usual.get(key)})" for key in keys if mine.get(key) != usual.get(key)]
        if texts:
            found[host] = f"the {len(most)} others: " + ", ".join(texts)
    return found


def excludable(folder: Path, hosts: Sequence[str]) -> list[str]:
    """The hosts that a requeued job should not get again.

    Not those that only did not report: a busy file system is slow for all and for a while. And none at all if more than a
    quarter are unfit, because then the cause is something they share, and the job would wait for nodes for ever.
    """
    reported = reports(folder, hosts)
    bad = sorted(host for host in unfit(folder, hosts) if host in reported)
    return bad if len(bad) <= max(1, len(hosts) // 4) else []


def numa_binding(folder: Path, hosts: Sequence[str]) -> str:
    """The option for torchrun, if it works on all hosts, else an empty text."""
    reasons = {host: report.get("no_numa_binding", "its report lacks it") for host, report in reports(folder, hosts).items()}
    reason = next(((host, why) for host, why in reasons.items() if why), None)
    if reason:
        print(f"ranks are not bound to NUMA nodes: {reason[0]}: {reason[1]}", file=sys.stderr)
    return "" if reason or not reasons else "--numa-binding=node"
