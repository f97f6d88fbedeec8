"""Predictions and searches as text for the terminal."""

from __future__ import annotations

from dataclasses import asdict

from hitvideo.planning.simulation.prediction import Prediction, Range
from hitvideo.planning.simulation.search import LEFT_FREE, Candidate, Found


def prediction_text(found: Prediction) -> str:
    """One step, part by part, and what follows from it."""
    lines = [f"predicted step               {found.step_s:,.3f} s on {found.devices:,} devices"]
    for name, seconds in asdict(found.parts).items():
        lines.append(f"  {name.replace('_', ' '):26} {seconds:,.3f} s  {seconds / found.step_s:4.0%}")
    lines += [
        f"predicted MFU, causal        {_percent(found.mfu_causal)}",
        f"predicted MFU, full attention {_percent(found.mfu_full_attention)}",
        f"tokens/s per device          {found.tokens_per_s_per_device:,.0f}",
        f"days                         {found.days:,.2f}{_price(found.usd)}",
    ]
    return "\n".join(lines)


def found_text(found: Found, deadline_days: float | None) -> str:
    """The best setting for each number of devices, then which of them to take."""
    head = ("devices", "ZeRO", "TP", "SP", "CP", "rows", "recompute", "GiB", "step s", "MFU, causal", "days", "USD", "binds")
    table = [head, *(_cells(each) for each in found.best)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    lines.append("ZeRO, TP, SP, CP: parallel.zero_stage, tensor, sequence, context; rows: train.micro_batch × accumulation;")
    lines.append(f"{LEFT_FREE:.0%} of the memory is left free; MFU: from … to …, where nine of ten measurements should be")
    here = f"fastest on the run's {found.here.prediction.devices} devices" if found.here else ""
    within = "cheapest" if deadline_days is None else f"cheapest within {deadline_days:g} days"
    cheapest = found.cheapest(deadline_days)
    for name, each in ((here, found.here), ("fastest", found.fastest), (within, cheapest)):
        if each:
            lines.append(f"{name}: {_told(each)}")
    if cheapest is None:
        lines.append(f"{within}: none; even the fastest takes {found.fastest.prediction.days:,.2f} days")
    return "\n".join(lines)


def _cells(each: Candidate) -> tuple[str, ...]:
    parallel, train, found = each.settings.parallel, each.settings.train, each.prediction
    data_ranks = found.devices // (parallel.tensor * parallel.context)
    return (
        f"{found.devices:,}", str(parallel.zero_stage), str(parallel.tensor), "yes" if parallel.sequence else "no",
        str(parallel.context), f"{train.micro_batch}×{train.accumulation(data_ranks)}", parallel.activation_checkpointing,
        f"{each.total_gib:.1f}", f"{found.step_s:.2f}", f"{found.mfu_causal.low:.0%}…{found.mfu_causal.high:.0%}",
        f"{found.days:,.2f}", "" if found.usd is None else f"{found.usd:,.0f}", each.binds.replace("_", " "),
    )  # fmt: skip


def _told(each: Candidate) -> str:
    found = each.prediction
    return (
        f"{found.days:,.2f} days{_price(found.usd)}, {each.total_gib:.1f} GiB, "
        f"bound by {each.binds.replace('_', ' ')}: {' '.join(each.words)}"
    )


def _percent(found: Range) -> str:
    return f"{found.middle:.1%}, measured probably {found.low:.0%} to {found.high:.0%}"


def _price(usd: float | None) -> str:
    return "" if usd is None else f", {usd:,.0f} USD"
