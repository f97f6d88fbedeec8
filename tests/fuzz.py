"""Seeded damage to files, for tests of readers: whatever is in a file, a reader gives a right result or an error by name.

    for damaged in mutations(path.read_bytes(), 1000, seed=0):
        path.write_bytes(damaged)
        refused += is_refused(lambda: read(path))          # the test fails on any other error, a hang, or gigabytes

Bytes are flipped, cut, inserted, doubled and zeroed. If the content is JSON, whole or line by line, half of the mutations
keep it JSON and change a value's type or size, or drop or rename a key: these pass the parser
and reach the code behind it.
"""

from __future__ import annotations

import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hitvideo.errors import HiTVideoError

HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64, 10**12, -(10**12), 10**30, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "../../x", "\0", "\ud83d", "x" * 10_000, [], [[]], {}, {"a": 1}, [10**12, 10**12], [0], [-1, -1],
    ["a"], [[1, 2, 3]] * 3,
]  # fmt: skip
_DEEP = b"[" * 100_000
_NUMBERS = [b"999999999999", b"-1", b"1e999", b"0", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0" * 8]


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged copies of a file's content, the same ones for the same seed; each differs from `data`."""
    rng = random.Random(seed)
    parsed = _parse(data)
    made = 0
    while made < count:
        as_json = parsed is not None and rng.random() < 0.5
        mutated = _dump(_mutate_json(parsed, rng)) if as_json and parsed is not None else _mutate_bytes(data, rng)
        if mutated != data:
            made += 1
            yield mutated


def is_refused(read: Callable[[], object], seconds: float = 10, mib: int = 512) -> bool:
    """Whether a reader raises an error of ours; it must end in time and with little memory either way."""
    with bounded(seconds, mib):
        try:
            read()
        except HiTVideoError:
            return True
    return False


@contextmanager
def bounded(seconds: float, mib: int) -> Iterator[None]:
    """Raise TimeoutError after some time, and let no more than `mib` of address space be added (MemoryError)."""

    def too_late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, too_late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mib << 20), before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _parse(data: bytes) -> list[Any] | None:
    """The JSON documents in a file: one, or one per line."""
    for parts in ([data], data.splitlines()):
        try:
            return [json.loads(part) for part in parts] or None
        except ValueError:
            continue
    return None


def _dump(documents: list[Any]) -> bytes:
    return "\n".join(json.dumps(document) for document in documents).encode() + b"\n" * (len(documents) > 1)


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    place = rng.randrange(len(data) + 1)
    stop = min(len(data), place + rng.choice([1, 3, 16, 600]))
    kind = rng.choice(["flip", "flips", "cut", "number", "insert", "delete", "double", "zero", "deep", "empty"])
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else 8):
            if data:
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del changed[place:]
    elif kind == "number":
        changed[place:place] = rng.choice(_NUMBERS)
    elif kind == "insert":
        changed[place:place] = rng.randbytes(rng.choice([1, 8, 512]))
    elif kind == "delete":
        del changed[place:stop]
    elif kind == "double":
        changed[place:place] = changed[place:stop]
    elif kind == "zero":
        changed[place:stop] = bytes(stop - place)
    elif rng.random() < 0.9:  # seldom: each is the same every time
        changed[place:place] = rng.choice(_NUMBERS)
    else:
        changed[:] = _DEEP if kind == "deep" else b""
    return bytes(changed)


def _mutate_json(documents: list[Any], rng: random.Random) -> list[Any]:
    copy = json.loads(json.dumps(documents))
    places = list(_places(copy))
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        holder, key = rng.choice(places)
        if (key not in holder) if isinstance(holder, dict) else key >= len(holder):
            continue  # an earlier change of this round took it away
        kind = rng.choice(["value", "value", "value", "delete", "rename", "number"])
        if kind == "delete":
            del holder[key]
        elif kind == "rename" and isinstance(holder, dict):
            holder[key + "x"] = holder.pop(key)
        elif kind == "number" and isinstance(holder[key], int | float):
            holder[key] = rng.choice([holder[key] * 10**12, -holder[key] - 1, holder[key] + 1, str(holder[key])])
        else:
            holder[key] = rng.choice(HOSTILE)
    return copy


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder and key in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)
