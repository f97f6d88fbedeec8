"""What an experiment is made of: steps, each one command of this project, and the folder they work in.

    OUT/shards/NAME    OUT/runs/NAME    OUT/tokens/NAME    OUT/figures/NAME.json

A step whose result is there is not repeated, and a training that was stopped continues, so an experiment may be killed at any
time and started again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hitvideo.files import replace_file
from hitvideo.hierarchy import Grid
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun, load_settings

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "yaml_configs"
HITVIDEO = str(Path(sys.executable).with_name("hitvideo"))
LONGEST_SUB_CODE = 9
LN2 = 0.6931471805599453


class Step(NamedTuple):
    """One command."""

    name: str
    program: str
    """`hitvideo`, or a module that Python runs."""
    words: tuple[str, ...]
    done: Path
    """Exists once the step is finished."""
    prints: bool = False
    """What the command prints is the content of `done`."""
    from_scratch: Path | None = None
    """What an interrupted attempt leaves and the command does not continue."""
    hierarchy: tuple[Path, str] | None = None
    """A file that the command reads, and its text."""

    @property
    def command(self) -> list[str]:
        return [HITVIDEO, *self.words] if self.program == "hitvideo" else [sys.executable, "-m", self.program, *self.words]


Rounds = list[list[Step]]
"""Steps of one round do not need each other; a round needs those before it."""


def level(down: Sequence[int], num_bits: int) -> dict[str, Any]:
    """One level of a hierarchy, its index split into sub-codes of about equal size and at most LONGEST_SUB_CODE bits."""
    parts = -(-num_bits // LONGEST_SUB_CODE)
    sub_bits = [num_bits // parts + (part < num_bits % parts) for part in range(parts)]
    return {"down": list(down), "num_bits": num_bits, **({"sub_bits": sub_bits} if parts > 1 else {})}


def loss_words(levels: int) -> list[str]:
    """The demo's quantisers and weights for another number of levels: the coarse half uses its codes, all decode alone."""
    coarse = levels // 2
    entropy = [0.3, 0.05][:coarse] + [0.05] * (coarse - 2)
    return [
        f"video_tokenizer.quantizer={json.dumps(['lfq'] * coarse + ['fsq'] * (levels - coarse))}",
        f"loss.entropy={entropy + [0] * (levels - coarse)}",
        f"loss.level_dropout={[0.2, 0.1, 0.05][: levels - 1] or 0}",
    ]


def levels_word(levels: Sequence[dict[str, Any]]) -> str:
    """The override that sets a hierarchy's levels."""
    return f"hierarchy.levels={json.dumps(levels)}"


def clip_words(frames: int, side: int) -> list[str]:
    return [f"clip.frames={frames}", f"clip.height={side}", f"clip.width={side}", "clip.fps=8"]


@dataclass(frozen=True)
class Lab:
    """The folder of one experiment, and how large it is run."""

    out: Path
    seeds: int = 3
    scale: float = 1.0
    """Factor of every training's steps."""
    clips: str | None = None
    """Your own captioned videos, for experiments that use some."""

    def shapes(self, name: str, num: int, frames: int = 8, side: int = 32) -> Step:
        """Moving shapes, one thing each."""
        out, file = self.out / "shards" / name, self.out / "shards" / f"{name}.yaml"
        words = ["data", "moving-shapes", str(out), "--num", str(self.few(num, 128)), "--seed", "1", "--objects", "1"]
        words += ["--hierarchy", str(file)]
        text = f"clip: {{frames: {frames}, height: {side}, width: {side}, fps: 8}}\n"
        return Step(f"shards {name}", "hitvideo", tuple(words), out / "packed.json", from_scratch=out, hierarchy=(file, text))

    def packed(self, name: str) -> Step:
        """Your own clips as video shards."""
        out = self.out / "shards" / name
        words = ("data", "pack", str(self.clips), str(out), "--per-shard", "16")
        return Step(f"shards {name}", "hitvideo", words, out / "packed.json", from_scratch=out)

    def tokenizer(self, name: str, config: str, shards: str, *words: str, seed: int = 0) -> Step:
        """Train a video tokenizer, `config` of yaml_configs/pretrain_tokenizer, on a folder of shards."""
        own = [*words, f"data.video_shards={self.out / 'shards' / shards}"]
        return self._training(name, "pretrain.video_tokenizer", CONFIGS / f"pretrain_tokenizer/{config}.yaml", own, seed)

    def tokens(self, tokenizer: str, shards: str) -> Step:
        """Tokenize a folder of shards with a trained video tokenizer; the token shards have the tokenizer's name."""
        out = self.out / "tokens" / tokenizer
        own = [
            f"run.root={self.out / 'runs'}", f"run.name={tokenizer}-tokens", "tracking.enabled=false", f"data.out={out}",
            f"video_tokenizer.weights={self.run(tokenizer) / 'weights'}", f"data.video_shards={self.out / 'shards' / shards}",
        ]  # fmt: skip
        words = (str(CONFIGS / "tokenize_shards/tiny.yaml"), *own)
        return Step(f"tokens {tokenizer}", "tokenize_shards", words, out / "manifest.json")

    def language_model(self, name: str, tokenizer: str, *words: str, seed: int = 0) -> Step:
        """Train the tiny language model on a tokenizer's token shards."""
        own = [*words, f"data.manifest={self.out / 'tokens' / tokenizer / 'manifest.json'}"]
        return self._training(name, "pretrain", CONFIGS / "pretrain/tiny.yaml", own, seed)

    def reconstruction(self, run: str, shards: str, clips: int) -> Step:
        """Measure a video tokenizer on the last `clips` clips, which its training holds out."""
        words = ["evaluate", "reconstruction", "--run", str(self.run(run)), "--clips", str(clips), "--json"]
        return self._figures(f"{run}-reconstruction", "hitvideo", [*words, "--video-shards", str(self.out / "shards" / shards)])

    def meaning(self, run: str, num: int = 256) -> Step:
        words = ["evaluate", "meaning", "--run", str(self.run(run)), "--num", str(num), "--json"]
        return self._figures(f"{run}-meaning", "hitvideo", words)

    def drawn(self, name: str, run: str, *words: str, num: int = 256) -> Step:
        """Generate for captions of moving shapes, and measure the videos; `words`: of experiments/drawn.py."""
        return self._figures(name, "experiments.drawn", ["--run", str(self.run(run)), "--num", str(self.few(num)), *words])

    def few(self, num: int, least: int = 8) -> int:
        """Fewer videos in a trial run, to train on or to evaluate."""
        return num if self.scale >= 1 else max(least, round(num * self.scale))

    def run(self, name: str) -> Path:
        return self.out / "runs" / name

    def figures(self, name: str) -> dict[str, Any] | None:
        """What a measuring step printed; None if it has not run."""
        path = self.out / "figures" / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def bits_per_clip(self, run: str, grouped: bool = False) -> float | None:
        """A language model's held-out loss of a whole clip's video tokens, in bits, at its last validation.

        `grouped`: in the order of llm.groups.
        """
        directory = self.run(run)
        if not (directory / "DONE").is_file():
            return None
        settings = load_settings(directory / "config.yaml")
        assert isinstance(settings, PretrainRun)
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        last = next(row for row in reversed(rows) if "validation_loss_level_0" in row)
        grids: list[Grid] = settings.hierarchy.grids(settings.clip.extent)
        losses = "validation_grouped_loss_level" if grouped else "validation_loss_level"
        return sum(grid.cells * float(last[f"{losses}_{k}"]) for k, grid in enumerate(grids)) / LN2

    def _training(self, name: str, program: str, config: Path, words: Sequence[str], seed: int) -> Step:
        place = [f"run.root={self.out / 'runs'}", f"run.name={name}", f"run.seed={seed}", "tracking.enabled=false"]
        own = [*words, *place]
        return Step(f"train {name}", program, (str(config), *own, *scaled(config, own, self.scale)), self.run(name) / "DONE")

    def _figures(self, name: str, program: str, words: Sequence[str]) -> Step:
        return Step(f"measure {name}", program, tuple(words), self.out / "figures" / f"{name}.json", prints=True)

    @property
    def seed_range(self) -> range:
        return range(self.seeds)


def scaled(config: Path, words: Sequence[str], scale: float) -> list[str]:
    """Overrides that multiply a training's steps, of each phase too, and its warm-up; none at scale 1."""
    if scale == 1:
        return []
    run = load_settings(config, words)
    assert isinstance(run, VideoTokenizerRun | PretrainRun)
    steps, found = max(2, round(run.train.steps * scale)), []
    if isinstance(run, VideoTokenizerRun) and run.phases:
        said = [phase.model_dump(exclude_unset=True, mode="json") for phase in run.phases]
        phases = [{**phase, "steps": max(1, round(phase["steps"] * scale))} for phase in said]
        steps = sum(phase["steps"] for phase in phases)
        found = [f"phases={json.dumps(phases)}"]
    return [f"train.steps={steps}", f"train.warmup_steps={min(round(run.train.warmup_steps * scale), steps)}", *found]


def work(rounds: Rounds, jobs: int) -> None:
    """Take all steps that are not done, at most `jobs` at a time. Raises CalledProcessError if one fails or was stopped."""
    for steps in rounds:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda step: take(step, jobs), steps))


def take(step: Step, jobs: int = 1) -> None:
    """Take one step, unless its result is there."""
    if step.done.exists():
        return
    if step.from_scratch and step.from_scratch.exists():
        shutil.rmtree(step.from_scratch)
    if step.hierarchy:
        step.hierarchy[0].parent.mkdir(parents=True, exist_ok=True)
        step.hierarchy[0].write_text(step.hierarchy[1])
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    print(f"experiment: {step.name}", file=sys.stderr, flush=True)
    environment, wanted = {**os.environ, "OMP_NUM_THREADS": threads}, subprocess.PIPE if step.prints else sys.stderr
    ended = subprocess.run(step.command, cwd=ROOT, env=environment, check=True, stdout=wanted, text=True)
    if step.prints:
        figures = json.loads(ended.stdout.strip().splitlines()[-1])
        step.done.parent.mkdir(parents=True, exist_ok=True)
        replace_file(step.done, (json.dumps(figures) + "\n").encode())
