"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: several test processes share the cores

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT.parent / "shared" / "clips"


@pytest.fixture
def clips() -> Path:
    """Real captioned clips, where they lie beside the checkout."""
    if not (CLIPS / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real clips at {CLIPS}")
    return CLIPS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many damaged files the readers were given, `mutations`, and which commands of the documents were run, `documents`."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    count = sum(int(str(value)) for report in reports for name, value in report.user_properties if name == "mutations")
    if count:
        terminalreporter.write_line(f"fuzzing: {count} damaged files, each named or read right")
    for text in (str(value) for report in reports for name, value in report.user_properties if name == "documents"):
        terminalreporter.write_line(text)
