"""The peaks of GPUs by name, and the warning about a cluster file for another GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hitvideo import config
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.devices import PEAKS, peak_of, peak_warning
from tests.conftest import ROOT

PARTS = {
    "a100": "NVIDIA A100-SXM4-80GB", "h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200", "b200": "NVIDIA B200",
    "gh200": "NVIDIA GH200 480GB", "mi300x": "AMD Instinct MI300X",
}  # fmt: skip


def cluster(part: str) -> ClusterSection:
    content = config.resolve(Path(ROOT / f"yaml_configs/parts/cluster/{part}.yaml"))
    return config.build(ClusterSection, content["cluster"], part)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA A10", 125), ("NVIDIA GB200", 2500),
        ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA A10G", None), ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None), ("Tesla V100-SXM2-32GB", None), ("", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_no_entry_of_the_table_hides_another() -> None:
    assert [peak_of(pattern) for pattern, _ in PEAKS] == [peak for _, peak in PEAKS]


@pytest.mark.parametrize("part", PARTS)
def test_the_cluster_parts_agree_with_the_table(part: str) -> None:
    assert peak_warning(PARTS[part], cluster(part), "bf16") is None


def test_a_cluster_file_for_another_gpu_is_named() -> None:
    text = peak_warning(PARTS["a100"], cluster("h100"), "bf16")
    assert text is not None
    assert re.findall(r"\d+\.?\d*", text.partition("mfu")[0]) == ["989", "100", "4", "80", "16", "312"]
    assert "wrong by 3.2 times" in text
    assert text.endswith("cluster.peak_tflops=312")
    assert peak_warning(PARTS["a100"], cluster("h100"), "fp32") is None, "the table's peaks are those of bf16"
