"""Fits the step model's constants to the published rows: damped least squares (Levenberg–Marquardt) on the logarithm of
predicted over measured time.

`FITTED` names the constants that the rows determine; the rest of `cluster.rates` are figures from elsewhere. Measurements of
two GPU types share all constants but the efficiencies of products and of attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hitvideo.planning.simulation.published import HARDWARE, Row, row_work
from hitvideo.planning.simulation.step import Work, machine, step_time
from hitvideo.settings.cluster import RatesSection

Floats: TypeAlias = npt.NDArray[np.float64]

_A100 = "A100"
_LIMITED = "H100-96"  # 500 W, where others have 700

FITTED: Mapping[str, tuple[float, float, float]] = {  # start, least and most
    "gemm_efficiency": (0.7, 0.4, 0.95),
    "gemm_narrow": (300, 0, 1500),
    "attention_efficiency": (0.18, 0.1, 0.6),
    "elementwise": (4.0, 1.0, 8.0),
    "overlap": (0.5, 0.0, 1.0),
    "host_ms_per_step": (50, 0, 300),
    "gemm_efficiency A100": (0.8, 0.4, 0.95),
    "attention_efficiency A100": (0.33, 0.1, 0.7),
    "clock at 500 W": (0.85, 0.6, 1.0),
}


@dataclass(frozen=True)
class Fit:
    """Values of `FITTED`, in its order."""

    values: tuple[float, ...]

    def __getitem__(self, name: str) -> float:
        return self.values[list(FITTED).index(name)]

    def rates(self, hardware: str) -> RatesSection:
        """`cluster.rates` of a GPU type."""
        found = {name: value for name, value in zip(FITTED, self.values, strict=True) if " " not in name}
        if hardware.startswith(_A100):
            found |= {name: self[f"{name} {_A100}"] for name in ("gemm_efficiency", "attention_efficiency")}
        if hardware == _LIMITED:
            found |= {name: found[name] * self["clock at 500 W"] for name in ("gemm_efficiency", "attention_efficiency")}
        return RatesSection(**found)


def fit(rows: Sequence[Row]) -> Fit:
    """The constants that make the rows' steps most likely; the same for every call, in a second or two."""
    works = [row_work(row) for row in rows]
    start, least, most = (np.array(part) for part in zip(*FITTED.values(), strict=True))

    def residuals(units: Floats) -> Floats:
        found = _log_errors(Fit(tuple(least + (most - least) * np.clip(units, 0, 1))), rows, works)
        scaled = found / np.sqrt(1 + np.abs(found) / _OUTLIER)  # an outlier counts less than its square
        return np.concatenate([scaled, _PULL * (units - (start - least) / (most - least))])

    units, damping = (start - least) / (most - least), 1e-2
    now = residuals(units)
    for _ in range(_ROUNDS):
        slope = np.stack([(residuals(units + step) - now) / _STEP for step in _STEP * np.eye(len(units))], 1)
        square = slope.T @ slope
        tried = np.clip(units - np.linalg.solve(square + damping * np.diag(np.diag(square) + 1e-6), slope.T @ now), 0, 1)
        then = residuals(tried)
        better = bool(then @ then < now @ now)
        damping *= 0.3 if better else 4
        if better:
            units, now = tried, then
    return Fit(tuple(float(value) for value in least + (most - least) * units))


_ROUNDS, _STEP, _OUTLIER = 40, 1e-4, 0.1
_PULL = 0.3  # towards the start, which decides where the rows do not: between narrow products and elementwise kernels


def errors(found: Fit, rows: Sequence[Row]) -> list[float]:
    """Predicted over measured tokens per second of each row, minus 1."""
    return [math.exp(-error) - 1 for error in _log_errors(found, rows, [row_work(row) for row in rows])]


def _log_errors(found: Fit, rows: Sequence[Row], works: Sequence[Work]) -> Floats:
    machines = {kind: replace(machine(HARDWARE[kind]), rates=found.rates(kind)) for kind in HARDWARE}
    times = [step_time(work, machines[row.hardware]).total for row, work in zip(rows, works, strict=True)]
    return np.log([time / row.step_s for time, row in zip(times, rows, strict=True)])
