"""What a client may ask of the page, checked before it waits in the queue."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hitvideo.errors import ConfigError, short
from hitvideo.generation import plans
from hitvideo.generation.engine import Request
from hitvideo.generation.generator import Generator
from hitvideo.generation.request import check_request, remarks
from hitvideo.generation.sampling import Plan, sampling_from
from hitvideo.serving.desk import Work
from hitvideo.serving.shelf import Kept

MOST_DRAFTS, LONGEST_PROMPT = 8, 2000
LARGEST_SEED = (1 << 53) - 1  # beyond it a browser's numbers are not exact
FormT = TypeVar("FormT", bound="_Form")


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DraftsForm(_Form):
    """New videos of one prompt, with seeds `seed`, `seed` + 1, …"""

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    seed: int = Field(0, ge=0, le=LARGEST_SEED - MOST_DRAFTS)
    drafts: int = Field(4, ge=1, le=MOST_DRAFTS)
    levels: int = Field(1, ge=1)
    negative: str | None = Field(None, max_length=LONGEST_PROMPT)
    guidance: float | list[float] | None = None
    temperature: float | list[float] | None = None
    top_k: int | list[int] | None = None
    top_p: float | list[float] | None = None
    plan: Plan | None = None

    def work(self, generator: Generator) -> Work:
        """Raises ConfigError for what the run cannot draw."""
        sampling = sampling_from(self.model_dump(exclude={"prompt", "seed", "drafts", "levels"}, exclude_none=True))
        plans.check(sampling, generator.model.layout)
        check_request([self.prompt, sampling.negative], self.seed, self.levels, generator.levels)
        requests = [Request(self.prompt, self.seed + number) for number in range(self.drafts)]
        layout = generator.model.layout
        notes = remarks([self.prompt], generator.text, layout.window, layout.vocab.text_size)
        return Work(requests, sampling, self.levels, note="; ".join(notes))


class VideoForm(_Form):
    """Something that is done with a video that is there."""

    video: str = Field(max_length=64)


def parse(form: type[FormT], body: bytes) -> FormT:
    """A form from a request's body. Raises ConfigError that names each wrong field, without repeating what was sent."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        lines = [f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in found[:5]]
        raise ConfigError(short("; ".join(lines), 500)) from None


def refinement(video: Kept, levels: int) -> Work:
    """Go on with a draft to all `levels`. Raises ConfigError if they are drawn already."""
    record = video.record
    if len(record.codes) >= levels:
        raise ConfigError(f"this video has all {levels} levels already")
    return Work([Request(record.prompt, record.seed, record.codes)], record.sampling, levels)


def repetition(video: Kept) -> Work:
    """Draw a video once more, from nothing but its settings."""
    record = video.record
    return Work([Request(record.prompt, record.seed)], record.sampling, len(record.codes), record)
