"""The peaks of known GPUs by the names that torch gives them, to compare with what a cluster file says."""

from __future__ import annotations

import re

from hitvideo.settings.cluster import ClusterSection

PEAKS = (
    (r"H100 PCIe", 756), (r"H100 NVL", 835), (r"H100", 989), (r"H800", 989), (r"H200 NVL", 835), (r"H200", 989),
    (r"GH200", 989), (r"B200", 2250), (r"GB200", 2500), (r"A100", 312), (r"A800", 312), (r"A40", 150), (r"A30", 165),
    (r"A10", 125), (r"L40S", 362), (r"L40", 181), (r"L4", 121),
    (r"RTX 4090", 165), (r"RTX 3090", 71), (r"MI300X", 1307), (r"MI325X", 1307),
)  # fmt: skip
"""Name → dense BF16 TFLOP/s with FP32 accumulation, by the vendors' data sheets (half of what NVIDIA gives with 2:4
sparsity). Of two that fit a name, the first is meant."""
_TOLERANCE = 0.05  # data sheets of one GPU differ by its clock and power


def peak_of(name: str) -> float | None:
    """The peak of a GPU by its name, such as "NVIDIA H100 80GB HBM3"; None for an unknown one, and for a part of one (MIG)."""
    if re.search(r"\bMIG\b", name):
        return None
    return next((float(peak) for pattern, peak in PEAKS if re.search(rf"\b{pattern}\b", name)), None)


def peak_warning(name: str, cluster: ClusterSection, dtype: str) -> str | None:
    """Say that cluster.peak_tflops is not this GPU's, so that MFU would be wrong; None if it is, or if that is not known."""
    peak = peak_of(name) if dtype == "bf16" else None
    if peak is None or abs(cluster.peak_tflops - peak) <= _TOLERANCE * peak:
        return None
    return (
        f"cluster.peak_tflops is {cluster.peak_tflops:g}, and the GPUs are {name}, whose peak in bf16 is {peak:g}: "
        f"mfu is wrong by {cluster.peak_tflops / peak:.2g} times; set cluster.peak_tflops={peak:g}"
    )
