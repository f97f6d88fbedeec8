"""`hitvideo config --explain` and `--find`: every key with its value, source and doc."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hitvideo.settings.explain import COMMAND_LINE, DEFAULT, explain, find, sources
from hitvideo.settings.programs import load_settings
from tests.conftest import ROOT

RUNS = sorted((ROOT / "yaml_configs").glob("*/*.yaml"))
TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


@pytest.mark.parametrize("path", [path for path in RUNS if path.parent.name != "parts"], ids=lambda path: path.stem)
def test_the_explained_yaml_is_the_resolved_one(path: Path) -> None:
    settings = load_settings(path)
    assert yaml.safe_load(explain(settings, sources(path, []))) == settings.model_dump(mode="json")


def test_every_key_names_its_source() -> None:
    text = explain(load_settings(TINY, ["train.steps=7"]), sources(TINY, ["train.steps=7"]))
    lines = {line.split(":")[0].strip(): line for line in text.splitlines() if not line.strip().startswith("#")}
    assert lines["steps"].endswith(f"7  # {COMMAND_LINE}")
    assert lines["spike_window"].endswith(f"# {DEFAULT}")
    assert lines["rope_axes"].endswith("parts/llm/tiny.yaml")


def test_a_base_given_twice_is_overruled_by_the_later_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {steps: 1, lr: 1e-3}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ntrain: {steps: 2}\n")
    found = sources(tmp_path / "b.yaml", [])
    assert found == {"train.steps": str(tmp_path / "b.yaml"), "train.lr": str(tmp_path / "a.yaml")}


def test_a_word_is_found_in_names_and_docs() -> None:
    found = {command: [key.dotted for key in keys] for command, keys in find("LEASE_SEC").items()}
    assert found == {"pretrain": [], "pretrain.video_tokenizer": [], "tokenize_shards": ["task.lease_seconds"]}


def test_every_key_has_a_doc() -> None:
    """A doc is a sentence: it does not run over into the next field."""
    for keys in find("").values():
        for key in keys:
            assert key.doc or key.dotted == "program", key.dotted
            assert not key.doc.startswith("…"), key.dotted
            assert not key.doc.endswith("…"), key.dotted
