"""The queue of the page: tickets wait in order of arrival, and one thread serves them, since there is one model."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hitvideo.errors import HiTVideoError, short
from hitvideo.generation.engine import Request
from hitvideo.generation.record import Record
from hitvideo.generation.sampling import Sampling

log = logging.getLogger(__name__)
MOST_WAITING, MOST_KEPT = 16, 256
State = Literal["waiting", "running", "done", "failed", "cancelled"]


class FullError(Exception):
    """So many tickets wait that no more are taken."""


class CancelledError(Exception):
    """Raised between two passes of the model when a ticket was cancelled."""


@dataclass(frozen=True)
class Work:
    """What a ticket asks for."""

    requests: Sequence[Request]
    """With equally many given levels."""
    sampling: Sampling
    levels: int
    expected: Record | None = None
    """Of a video that is drawn again: its codes are compared."""
    note: str = ""
    """What the client should know."""


@dataclass(eq=False)  # two tickets may ask for the same
class Ticket:
    """One piece of work on its way. The serving thread writes to it; others read it and may cancel it."""

    work: Work
    total: int
    """Tokens that every video gains."""
    name: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: State = "waiting"
    level: int = 0
    tokens: int = 0
    videos: Sequence[dict[str, Any]] = ()
    """What is there to be seen of it: of the levels that are drawn."""
    different: int | None = None
    """Of a video that was drawn again: cells whose codes are not those of before."""
    error: str = ""
    cancelled: bool = False
    _begin: float = 0.0

    def begin(self) -> None:
        """Its turn has come."""
        self.state, self._begin = "running", time.monotonic()

    def gain(self, tokens: int) -> None:
        """Told of every pass of the model. Raises CancelledError."""
        self.tokens += tokens
        if self.cancelled:
            raise CancelledError

    @property
    def ended(self) -> bool:
        return self.state not in ("waiting", "running")

    def status(self, ahead: int) -> dict[str, Any]:
        """For JSON. `ahead`: tickets that are served before this one."""
        tokens, left = self.tokens, None
        if self.state == "running" and tokens:
            left = round((time.monotonic() - self._begin) / tokens * (self.total - tokens), 1)
        found = {"id": self.name, "state": self.state, "ahead": ahead, "level": self.level, "levels": self.work.levels}
        found |= {"tokens": tokens, "total": self.total, "seconds_left": left, "videos": list(self.videos)}
        return found | {"different": self.different, "note": self.work.note, "error": self.error}


class Desk:
    """Takes tickets, and serves them one after the other on a thread of its own."""

    def __init__(self, serve: Callable[[Ticket], None], most_waiting: int = MOST_WAITING, most_kept: int = MOST_KEPT) -> None:
        """`serve` does a ticket's work, and calls its `gain` while it does."""
        self._serve, self._most_waiting, self._most_kept = serve, most_waiting, most_kept
        self._known: dict[str, Ticket] = {}
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)
        self._thread.start()

    def add(self, work: Work, total: int) -> Ticket:
        """Let a piece of work wait. Raises FullError."""
        with self._changed:
            if len(self._waiting) >= self._most_waiting or self._closed:
                raise FullError
            ticket = Ticket(work, total)
            self._known[ticket.name] = ticket
            self._waiting.append(ticket)
            ended = [each.name for each in self._known.values() if each.ended]
            for name in ended[: max(0, len(self._known) - self._most_kept)]:
                del self._known[name]
            self._changed.notify()
        return ticket

    def get(self, name: str) -> Ticket | None:
        """The ticket, or None if it is not known or no longer."""
        return self._known.get(name)

    def status(self, ticket: Ticket) -> dict[str, Any]:
        """How a ticket gets on, for JSON."""
        with self._changed:
            ahead = self._waiting.index(ticket) + (self._running is not None) if ticket in self._waiting else 0
            return ticket.status(ahead)

    def cancel(self, ticket: Ticket) -> None:
        """Take it out of the queue, or stop it after the pass that it is in. One that has ended stays as it is."""
        with self._changed:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.state = "cancelled"

    def close(self) -> None:
        """Cancel everything, and wait until the thread has ended."""
        with self._changed:
            self._closed = True
            for ticket in [*self._waiting, *([self._running] if self._running else [])]:
                ticket.cancelled = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._running = ticket = self._waiting.popleft()
                ticket.begin()
            ticket.state = self._served(ticket)

    def _served(self, ticket: Ticket) -> State:
        """Nothing that goes wrong with a ticket ends the thread, and no inner detail reaches the client."""
        try:
            self._serve(ticket)
        except CancelledError:
            return "cancelled"
        except HiTVideoError as error:
            ticket.error = short(error)
            return "failed"
        except Exception:
            log.exception("a ticket of the page failed")
            ticket.error = "an error of the server, which its log describes"
            return "failed"
        return "done"
