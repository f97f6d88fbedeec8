"""The progressive schedule of a video tokenizer's training: which phase a step belongs to, and its learning rate.

    phases:
      - {name: autoencoder, steps: 2000, quantized: false}     pixels ⇄ latents, no codes yet
      - {name: coarse, steps: 1000, levels: 2}                 the two coarsest levels
      - {name: all-levels, steps: 3000}
      - {name: decoder, steps: 1000, train: decoder}           codes stay as they are

A pure function of the step, so a run that is stopped and resumed goes through the same phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hitvideo.settings.video_tokenizer import PhaseSection


class Place(NamedTuple):
    """Where in the schedule a step is."""

    number: int
    """Of the phase, from 0."""
    phase: PhaseSection
    step: int
    """Within the phase."""

    @property
    def progress(self) -> float:
        """Part of the phase that is done."""
        return self.step / self.phase.steps


def place(phases: Sequence[PhaseSection], step: int) -> Place:
    """The phase that `step` belongs to; the last one beyond the schedule's end."""
    for number, phase in enumerate(phases[:-1]):
        if step < phase.steps:
            return Place(number, phase, step)
        step -= phase.steps
    return Place(len(phases) - 1, phases[-1], step)


def unquantized_share(phases: Sequence[PhaseSection], here: Place, until: float) -> float:
    """Share of clips whose latents pass unquantised: all of them before the first quantised phase, none after it.

    Within that phase the share falls from 1 at its start to 0 at the part `until` of it.
    """
    first = next((number for number, phase in enumerate(phases) if phase.quantized), len(phases))
    if here.number != first:
        return float(here.number < first or not here.phase.quantized)
    return max(0.0, 1 - here.progress / until) if until else 0.0
