"""Settings that the tests of runs share."""

from __future__ import annotations

from pathlib import Path

from hitvideo.settings.programs import PretrainRun, load_settings_as
from tests.conftest import ROOT

TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


def settings(tmp_path: Path, *words: str) -> PretrainRun:
    """A language model's run named r in tmp_path."""
    return load_settings_as(PretrainRun, TINY, [f"run.root={tmp_path}", "run.name=r", *words])
