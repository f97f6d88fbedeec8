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
