"""The training phases of a video tokenizer: which one a step belongs to, and how far quantisation is phased in.

    phases:
      - {name: autoencoder, steps: 2000, quantized: false}     pixels ⇄ latents, no codes yet
      - {name: coarse, steps: 1000, levels: 2}                 only the two coarsest levels
      - {name: all-levels, steps: 3000}
      - {name: decoder, steps: 1000, train: decoder}           codes no longer change

The phase is a pure function of the step, so a run that is stopped and resumed goes through the same phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hitvideo.settings.video_tokenizer import PhaseSection


class Place(NamedTuple):
    """A step's place in the schedule."""

    number: int
    """Index of the phase, from 0."""
    phase: PhaseSection
    step: int
    """Step within the phase, from 0."""

    @property
    def progress(self) -> float:
        """Fraction of the phase that is done."""
        return self.step / self.phase.steps


def place(phases: Sequence[PhaseSection], step: int) -> Place:
    """The phase that `step` belongs to. Steps past the end of the schedule belong to the last phase."""
    for number, phase in enumerate(phases[:-1]):
        if step < phase.steps:
            return Place(number, phase, step)
        step -= phase.steps
    return Place(len(phases) - 1, phases[-1], step)


def unquantized_share(phases: Sequence[PhaseSection], here: Place, until: float) -> float:
    """Fraction of clips whose latents pass unquantised: 1 before the first quantised phase, 0 after it.

    Within that phase it falls linearly from 1 to 0 over the first `until` (a fraction) of the phase.
    """
    first = next((number for number, phase in enumerate(phases) if phase.quantized), len(phases))
    if here.number != first:
        return float(here.number < first or not here.phase.quantized)
    return max(0.0, 1 - here.progress / until) if until else 0.0
