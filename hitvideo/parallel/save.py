"""Writes checkpoints next to training, which pauses only while its state is copied to the host.

Each rank's thread writes that rank's file and then, with its size and sha256, the rank's JSON: the sign that it is complete.
Rank 0's thread waits for the signs of all ranks, merges them into index.json, writes state.json last and completes the
checkpoint by one rename. The threads communicate through files alone, because collectives of a second thread could overtake
those of training.

A failed save (a full disk) is dropped: the ranks agree at a step boundary, delete what was written and go on. After
checkpoint.most_failures in a row the run ends instead, because what it would go on to do could be lost.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from hitvideo.checkpoints.listing import FORMAT, INDEX_FILE, STATE_FILE, complete, state_digest, step_of
from hitvideo.checkpoints.swap import clear_leftovers, swap_in
from hitvideo.errors import ConfigError
from hitvideo.files import read_json, replace_json, sha256, sync
from hitvideo.parallel.engine import Engine
from hitvideo.parallel.fragments import adam_states, buffers, fragments
from hitvideo.parallel.restore import shapes
from hitvideo.runs.ownership import TakenOverError, refuse_if_taken_over
from hitvideo.settings.run import CheckpointSection

log = logging.getLogger(__name__)
_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 1.0
_RETRY_SECONDS = 10.0
_GIB = 1 << 30


class SavesFailed(RuntimeError):
    """Too many checkpoints in a row could not be written."""


def check_space(directory: Path, engine: Engine, settings: CheckpointSection) -> None:
    """Raise ConfigError on every rank if the checkpoints that the run keeps, and the one being written, do not fit the disk."""
    numel = sum(math.prod(shape) for shape, _dim in shapes(engine).values())
    size = numel * 4 * (4 if engine.averages else 3)  # weights, two moments, average
    needed = max(settings.keep_last + 1 - len(complete(directory)), 1) * size
    free = shutil.disk_usage(directory).free
    if engine.any(engine.topology.rank == 0 and free < needed)[0]:
        raise ConfigError(
            f"run.root {directory.parent.parent}: {free / _GIB:.2f} GiB are free, {needed / _GIB:.2f} GiB are needed: a "
            f"checkpoint takes {size / _GIB:.2f} GiB, checkpoint.keep_last + 1 = {settings.keep_last + 1} of them must fit; "
            "free some space, choose another run.root, or lower checkpoint.keep_last"
        )


class Saver:
    """`save` copies and returns, `finish` waits; all ranks call them together."""

    def __init__(self, directory: Path, engine: Engine, settings: CheckpointSection, fingerprint: str) -> None:
        self._directory = directory
        self._engine = engine
        self._settings = settings
        self._fingerprint = fingerprint
        self._host: list[dict[str, torch.Tensor]] = []
        self._thread: threading.Thread | None = None
        self._abandoned = threading.Event()
        self._error: Exception | None = None
        self.failures = 0
        """Checkpoints since the start that could not be written."""
        self._in_a_row = 0
        if engine.topology.rank == 0:
            clear_leftovers(directory)
        # Names this start's unfinished saves, so that those of a killed start are never taken for ours.
        attempt = torch.tensor(secrets.randbits(31), device=engine.topology.device)
        dist.broadcast(attempt, src=0)  # also lets the others wait until what is left of killed saves is cleared
        self._attempt = f"{int(attempt):08x}"

    @property
    def failed(self) -> bool:
        """Whether this rank could not write its part of the current save."""
        return self._error is not None

    def save(self, step: int, memory: dict[str, Any], final: bool = False) -> None:
        """Start writing the state after `step` steps, and `memory` (JSON); waits for the previous save first.

        Raises SavesFailed if too many failed in a row. A `final` save is complete on return. It raises ConfigError if it
        still fails after checkpoint.patience_seconds.
        """
        if not self.finish() and not final:
            self.refuse_to_go_on()
        self._copy_to_host()
        self._begin(step, memory)
        deadline = time.monotonic() + self._settings.patience_seconds
        while final and not self.finish():
            if self._engine.any(time.monotonic() > deadline)[0]:
                raise ConfigError(
                    f"{self._directory}: the state after step {step} could not be written; free some space and start again: "
                    "the run continues from its last complete checkpoint"
                )
            time.sleep(min(_RETRY_SECONDS, self._settings.patience_seconds))
            self._begin(step, memory)

    def _begin(self, step: int, memory: dict[str, Any]) -> None:
        engine = self._engine
        description = {
            "format": FORMAT,
            "step": step,
            "averaged": bool(engine.averages),
            "adam_step": int(adam_states(engine)[0]["step"]),
            "fingerprint": self._fingerprint,
            "world": engine.topology.world,
            "tensor": engine.topology.tensor,
            "parameters": shapes(engine),
            **memory,
        }
        self._thread = threading.Thread(target=self._work, args=(step, description), daemon=True, name="saver")
        self._thread.start()

    def finish(self) -> bool:
        """Wait until the current save is complete on all ranks; False if it failed on one."""
        while True:
            writing, failed = self._engine.any(self._thread is not None and self._thread.is_alive(), self.failed)
            if failed:
                self.give_up()
                return False
            if not writing:
                self._in_a_row = 0 if self._thread else self._in_a_row
                self._thread = None
                return True
            time.sleep(_LOOK_SECONDS)

    def give_up(self) -> None:
        """Drop the current save, which failed on some rank, and log why; earlier checkpoints stay."""
        self.failures += 1
        self._in_a_row += 1
        self._abandoned.set()
        if self._thread is not None:
            self._thread.join()
        if isinstance(self._error, TakenOverError):
            raise self._error
        if self._error is not None:
            kept = complete(self._directory)
            last = f"the last complete one is of step {step_of(kept[-1])}" if kept else "there is none yet"
            log.warning("a checkpoint could not be written: %s; %s; free some space", self._error, last)
        dist.barrier()
        if self._engine.topology.rank == 0:
            for left in self._directory.glob(f"step-*.partial-{self._attempt}"):
                shutil.rmtree(left, ignore_errors=True)
        self._abandoned.clear()
        self._error, self._thread = None, None

    def refuse_to_go_on(self) -> None:
        """Raise SavesFailed after checkpoint.most_failures in a row; call it on all ranks after `give_up`."""
        if self._in_a_row >= self._settings.most_failures:
            raise SavesFailed(
                f"{self._directory}: {self._in_a_row} checkpoints in a row could not be written (checkpoint.most_failures "
                f"{self._settings.most_failures}); free some space and start again: the run continues from its last complete "
                "checkpoint"
            )

    def _copy_to_host(self) -> None:
        """Copy into the same host memory every time; for a GPU it is pinned, and the copies overlap."""
        live = buffers(self._engine)
        if not self._host:
            pinned = self._engine.topology.device.type == "cuda"
            self._host = [{k: torch.empty(t.shape, dtype=t.dtype, pin_memory=pinned) for k, t in flat.items()} for flat in live]
        for flat, host in zip(live, self._host, strict=True):
            for kind, tensor in flat.items():
                host[kind].copy_(tensor, non_blocking=True)
        if self._engine.topology.device.type == "cuda":
            torch.cuda.synchronize()

    def _work(self, step: int, description: dict[str, Any]) -> None:
        try:
            partial = self._directory / f"step-{step:08d}.partial-{self._attempt}"
            partial.mkdir(parents=True, exist_ok=True)
            self._write_mine(partial)
            if self._engine.topology.rank == 0 and self._wait_for_all(partial):
                self._complete(partial, description)
        except Exception as error:  # all ranks learn of it at the next step boundary
            self._error = error

    def _write_mine(self, partial: Path) -> None:
        topology = self._engine.topology
        tensors: dict[str, torch.Tensor] = {}
        index = []
        writes = self._engine.zero_stage > 0 or topology.shard_rank == 0  # without ZeRO all shards hold the same
        for fragment in fragments(self._engine) if writes else ():
            index.append({"name": fragment.name, "offset": fragment.offset, "length": fragment.length})
            for kind, view in fragment.of(self._host).items():
                tensors[f"{fragment.name}@{fragment.offset}/{kind}"] = view
        file = partial / f"rank-{topology.rank:05d}.safetensors"
        save_file(tensors, file)
        sync(file)
        whole = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        replace_json(file.with_suffix(".json"), {"tensor_rank": topology.tensor_rank, "fragments": index, **whole})

    def _wait_for_all(self, partial: Path) -> bool:
        signs = {f"rank-{rank:05d}.json" for rank in range(self._engine.topology.world)}
        pause = _LOOK_SECONDS
        while not signs <= set(os.listdir(partial)):  # one request to the file system, for any number of ranks
            if self._abandoned.wait(pause):
                return False
            pause = min(2 * pause, _LONGEST_LOOK_SECONDS)
        return True

    def _complete(self, partial: Path, description: dict[str, Any]) -> None:
        files, ranks = {}, []
        for rank in range(self._engine.topology.world):
            sign = partial / f"rank-{rank:05d}.json"
            listing = read_json(sign, "checkpoint")
            files[sign.with_suffix(".safetensors").name] = [listing["bytes"], listing["sha256"]]
            files[sign.name] = [sign.stat().st_size, sha256(sign)]
            ranks.append({"tensor_rank": listing["tensor_rank"], "fragments": listing["fragments"]})
        index = partial / INDEX_FILE
        replace_json(index, {"ranks": ranks})
        state = {**description, "files": files, "index": [index.stat().st_size, sha256(index)]}
        replace_json(partial / STATE_FILE, {**state, "sha256": state_digest(state)})
        refuse_if_taken_over(self._directory.parent)
        final = self._directory / partial.name.partition(".")[0]
        swap_in(partial, final)
        self._rotate(step_of(final))

    def _rotate(self, step: int) -> None:
        """Remove old checkpoints. Those after `step` are damaged, because the run would have gone on from them."""
        every = self._settings.keep_every
        upto = [path for path in complete(self._directory) if step_of(path) <= step]
        for old in upto[: -self._settings.keep_last]:
            if not every or step_of(old) % every:
                shutil.rmtree(old.rename(old.with_suffix(".partial")))  # no half-deleted one keeps a checkpoint's name
