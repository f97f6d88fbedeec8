"""`hitvideo plan --simulate` and `--search`."""

from __future__ import annotations

import json

import pytest

from tests.commands.conftest import Call
from tests.conftest import ROOT

SMALL = (
    ROOT / "yaml_configs/pretrain/tiny.yaml", "cluster.devices_per_node=1", "cluster.devices=gpu", "cluster.memory_gbs=10",
    "cluster.peak_tflops=1", "train.dtype=bf16", "llm.layers=3", "train.global_batch=4", "train.micro_batch=1",
)  # fmt: skip


def test_simulate(call: Call) -> None:
    code, out, _ = call("plan", *SMALL, "--simulate", "--json", "--price", "5")
    assert code == 0
    figures = json.loads(out)
    assert figures["step_s"] == pytest.approx(sum(figures["parts"].values()))
    assert figures["usd"] == pytest.approx(5 * 24 * figures["days"])
    assert figures["mfu_causal"]["low"] < figures["mfu_causal"]["middle"] < figures["mfu_causal"]["high"]
    assert 0 < figures["total_gib"] < figures["available_gib"]
    code, out, _ = call("plan", *SMALL, "--simulate")
    assert code == 0
    for part in figures["parts"]:
        assert part.replace("_", " ") in out


def test_search(call: Call) -> None:
    code, out, _ = call("plan", *SMALL, "--search", "--json", "--deadline", "1000")
    assert code == 0
    figures = json.loads(out)
    assert [each["devices"] for each in figures["best"]] == [1, 2, 4]
    assert figures["cheapest"]["days"] <= 1000
    code, out, _ = call("plan", *SMALL, "--search", "--deadline", "1e-9")
    assert code == 0
    assert "cheapest within 1e-09 days: none" in out
    assert " ".join(figures["fastest"]["settings"]) in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--deadline", "3"), "--search"),
        (("--search", "--deadline", "-3"), "-3 is not a number above 0"),
        (("--simulate", "cluster.memory_gbs=null"), "cluster.memory_gbs"),
        (("--search", "cluster.memory_gib=1e-4"), "cluster.memory_gib"),
    ],
)
def test_what_cannot_be(call: Call, words: tuple[str, ...], named: str) -> None:
    code, out, err = call("plan", *SMALL, *words)
    assert (code, out) == (2, "")
    assert named in err


def test_only_language_models(call: Call) -> None:
    code, _, err = call("plan", ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml", "--simulate")
    assert code == 2
    assert "program: pretrain" in err
