"""Does the work of tickets with a run's models: level by level, so that every level can be looked at when it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hitvideo.generation.engine import Listener
from hitvideo.generation.generator import Generator
from hitvideo.generation.record import TAG, Record
from hitvideo.serving.desk import Ticket, Work
from hitvideo.serving.shelf import Kept, Shelf
from hitvideo.video.encode import encode_mp4


@dataclass(frozen=True)
class Studio:
    """A run's models, and the shelf for what they draw."""

    generator: Generator
    shelf: Shelf

    def total(self, work: Work) -> int:
        """Tokens that every video of a piece of work gains."""
        return self.generator.tokens(work.levels, len(work.requests[0].given))

    def serve(self, ticket: Ticket) -> None:
        """Draw a ticket's videos. The videos of a level take the place of those of the level before, which a client may still
        be loading, and which are dropped when the next level is there."""
        work = ticket.work
        requests, given = work.requests, len(work.requests[0].given)
        replaced: list[str] = []

        def begin_level(level: int) -> None:
            ticket.level = level

        for levels in range(given + 1, work.levels + 1):
            drawn = self.generator.draw(requests, work.sampling, levels, Listener(ticket.gain, begin_level))
            requests = [replace(request, given=record.codes) for request, record in zip(requests, drawn.records, strict=True)]
            self.shelf.drop(replaced)
            replaced = [video["id"] for video in ticket.videos]
            ticket.videos = [self._shown(record) for record in drawn.records]
        if work.expected:
            pairs = zip(requests[0].given, work.expected.codes, strict=True)
            ticket.different = sum(int((one != other).sum()) for one, other in pairs)

    def _shown(self, record: Record) -> dict[str, Any]:
        """Decode a video, put it on the shelf, and say what it is, for JSON."""
        (frames,) = self.generator.decode([indices[None] for indices in record.codes])
        mp4 = encode_mp4(frames, self.generator.clip.fps, tags={TAG: record.to_json()})
        name = self.shelf.put(Kept(record, mp4))
        levels = len(record.codes)
        facts = {"prompt": record.prompt, "seed": record.seed, "levels": levels, "whole": levels == self.generator.levels}
        return {"id": name, **facts, "codes": fingerprint(record.codes)}


def fingerprint(codes: Sequence[np.ndarray]) -> str:
    """12 hex digits that two videos share if their codes are the same."""
    digest = hashlib.sha256()
    for indices in codes:
        digest.update(str(indices.shape).encode() + np.ascontiguousarray(indices, "<i8").tobytes())
    return digest.hexdigest()[:12]
