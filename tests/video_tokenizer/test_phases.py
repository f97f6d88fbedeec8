"""The schedule: which phase a step belongs to, and how quantisation is phased in."""

from hitvideo.settings.video_tokenizer import PhaseSection
from hitvideo.video_tokenizer.phases import place, unquantized_share

PHASES = [PhaseSection(name=name, steps=steps) for name, steps in (("a", 3), ("b", 1), ("c", 4))]


def test_every_step_has_its_place() -> None:
    found = [(here.phase.name, here.number, here.step) for here in (place(PHASES, step) for step in range(8))]
    assert found == [("a", 0, 0), ("a", 0, 1), ("a", 0, 2), ("b", 1, 0), ("c", 2, 0), ("c", 2, 1), ("c", 2, 2), ("c", 2, 3)]
    assert place(PHASES, 6).progress == 0.5


def test_beyond_the_end_is_the_last_phase() -> None:
    assert place(PHASES, 9).phase.name == "c"


def test_codes_come_in_gradually_in_the_first_quantised_phase() -> None:
    phases = [PhaseSection(name="pixels", steps=2, quantized=False), PHASES[2], PHASES[2]]
    shares = [unquantized_share(phases, place(phases, step), 0.5) for step in range(10)]
    assert shares == [1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0]
    assert unquantized_share(PHASES, place(PHASES, 0), 0.0) == 0
