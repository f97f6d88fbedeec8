"""How generation draws: the settings with their defaults. No torch: the command line shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from hitvideo.errors import ConfigError, short

NumberT = TypeVar("NumberT", int, float)
PerLevel: TypeAlias = NumberT | tuple[NumberT, ...]
"""One number for all levels, or one for each, coarsest first; finer levels than there are numbers take the last."""
Plan = Literal["auto", "sequential", "jacobi", "grouped"]
LONGEST_LIST = 64


class LevelSampling(NamedTuple):
    """How one level is drawn."""

    guidance: float
    temperature: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class Sampling:
    """How generation draws; the one place of its defaults. Raises ConfigError for a value out of range.

    At the ends of the ranges logits of fp32 are still finite.
    """

    guidance: PerLevel[float] = 3.0
    """Classifier-free guidance: 1 is none, higher follows the prompt more, away from the negative one."""
    temperature: PerLevel[float] = 0.4
    """Below 1 draws likely codes more often; 0 takes the likeliest."""
    top_k: PerLevel[int] = 0
    """Draw from the K likeliest entries; 0: all."""
    top_p: PerLevel[float] = 1.0
    """Draw from the likeliest entries of this total probability."""
    guidance_ramp: bool = False
    """Guidance rises from 1 at the first slot of a video to `guidance` at the last, in proportion to the slots."""
    apg: float = 0.0
    """Adaptive projected guidance (Sadat et al. 2024): the difference that guidance adds is cut to this root mean square, and
    its part along the conditional logits left out; 0: plain guidance."""
    negative: str = ""
    """The prompt that guidance leads away from."""
    plan: Plan = "auto"
    """How many slots a pass of the model draws (hitvideo/generation/plans.py). auto, sequential and jacobi draw the same codes;
    grouped draws others, in fewer passes, with a model that was trained with llm.groups."""

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, object, Callable[[Any], bool], str], ...] = (
            ("guidance", self.guidance, lambda value: 0 <= value <= 1000, "0 to 1000"),
            ("temperature", self.temperature, lambda value: value == 0 or 1e-3 <= value <= 1e3, "0, or 0.001 to 1000"),
            ("top-k", self.top_k, lambda value: 0 <= value < 1 << 31 and value == int(value), "a whole number, 0 or more"),
            ("top-p", self.top_p, lambda value: 0 < value <= 1, "above 0 and at most 1"),
            ("apg", self.apg, lambda value: 0 <= value <= 1000, "0 to 1000"),
        )
        for name, given, fits, limits in checks:
            values = given if isinstance(given, tuple) else (given,)
            if not 1 <= len(values) <= LONGEST_LIST:
                raise ConfigError(f"{name} has {len(values)} numbers; give one, or one for each level")
            for value in values:
                if not _is_number(value) or not fits(value):
                    raise ConfigError(f"{name} is {short(value)}; it must be {limits}")
        if self.plan not in get_args(Plan):
            raise ConfigError(f"plan is {short(self.plan)}; it must be one of {', '.join(get_args(Plan))}")
        if not isinstance(self.negative, str) or not isinstance(self.guidance_ramp, bool):
            raise ConfigError("negative must be a text, and guidance_ramp true or false")

    def at(self, level: int) -> LevelSampling:
        """The settings of one level."""
        pick = (self.guidance, self.temperature, self.top_k, self.top_p)
        guidance, temperature, top_k, top_p = (_of_level(values, level) for values in pick)
        return LevelSampling(guidance, temperature, top_k, top_p)

    def guides(self, level: int, levels: int) -> bool:
        """Whether this level, or a finer one of the first `levels`, needs the rows with the negative prompt."""
        return any(self.at(later).guidance != 1 for later in range(level, levels))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: tuples become lists there, and `sampling_from` takes both."""
        return asdict(self)


def sampling_from(found: dict[str, Any]) -> Sampling:
    """The inverse of `as_dict`, for settings that somebody else may have written. Raises ConfigError."""
    unknown = found.keys() - Sampling.__dataclass_fields__.keys()
    if unknown:
        raise ConfigError(f"unknown settings of sampling: {short(sorted(map(str, unknown)))}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Sampling(**given)


def per_level(values: PerLevel[Any]) -> str:
    """As the command line takes it: 3, or 1,3,3."""
    return ",".join(f"{value:g}" for value in (values if isinstance(values, tuple) else (values,)))


def _of_level(values: Any, level: int) -> Any:
    return values[min(level, len(values) - 1)] if isinstance(values, tuple) else values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
