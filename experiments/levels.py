"""Small-scale experiments on the video tokenizer, and their tables in RESULTS.md.

    python experiments/levels.py OUT shapes [--seeds 3]    moving shapes: four levels over seeds; temporal factors
    python experiments/levels.py OUT clips SRC             your clips: one level against four; temporal factors
    python experiments/levels.py OUT tables                write the figures in OUT between the markers of RESULTS.md

`make experiment-levels` runs all three with OUT = runs/levels. Every training run is `python -m pretrain.video_tokenizer` on
one core, two at a time; finished runs are not repeated. Questions: what do levels cost at equal bits, and what does a prefix of
them give? How much quality does a longer cell in time lose at equal bits per second, where little moves and where much moves?
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "yaml_configs/pretrain_tokenizer"
RESULTS = Path(__file__).with_name("RESULTS.md")
HITVIDEO = str(Path(sys.executable).with_name("hitvideo"))


class Experiment(NamedTuple):
    """One training run, evaluated on `held_out` clips."""

    name: str
    config: str
    words: tuple[str, ...]
    held_out: int


def seeds(count: int) -> list[Experiment]:
    return [Experiment(f"shapes-seed-{seed}", "moving_shapes", (f"run.seed={seed}",), 64) for seed in range(count)]


def temporal(kind: str, config: str, side: int, bits: int, widths: tuple[int, ...], held_out: int) -> list[Experiment]:
    """One level with cells of 2, 4 and 8 frames × `side`²: `bits` for 4 frames, the same bits per second for the others."""
    found = []
    for frames, channels in ((2, widths[:1] + widths[-1:]), (4, widths), (8, (*widths, widths[-1]))):
        number = bits * frames // 4
        parts = [number // 4 + (part < number % 4) for part in range(4)]
        level = f"{{down: [{frames}, {side}, {side}], num_bits: {number}, sub_bits: {parts}}}"
        words = (f"hierarchy.levels=[{level}]", f"video_tokenizer.channels={list(channels)}", "train.steps=1500")
        found.append(Experiment(f"{kind}-{frames}-frames", config, words, held_out))
    return found


ON_SHAPES = temporal("shapes", "tiny", 4, 12, (48, 64, 64), 64)
ON_CLIPS = temporal("clips", "small_one_level", 8, 14, (32, 64, 96), 16)
AGAINST = [Experiment(f"clips-{kind}", f"small_{kind}_level", (), 16) for kind in ("four", "one")]


def run(experiment: Experiment, out: Path, shards: Path) -> None:
    """Train and evaluate; continues where an earlier call stopped."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [f"run.root={out / 'runs'}", f"run.name={experiment.name}", f"data.video_shards={shards}", *experiment.words]
    directory = out / "runs" / experiment.name
    if not (directory / "DONE").is_file():
        command = [sys.executable, "-m", "pretrain.video_tokenizer", str(CONFIGS / f"{experiment.config}.yaml"), *words]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    if not (directory / "evaluation/reconstruction.json").is_file():
        words = ["--run", str(directory), "--video-shards", str(shards), "--clips", str(experiment.held_out)]
        command = [HITVIDEO, "evaluate", "reconstruction", *words]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


def run_all(experiments: list[Experiment], out: Path, shards: Path) -> None:
    with ThreadPoolExecutor(2) as cores:
        list(cores.map(lambda experiment: run(experiment, out, shards), experiments))


def figures_of(out: Path, name: str) -> dict[str, Any] | None:
    path = out / "runs" / name / "evaluation/reconstruction.json"
    return json.loads(path.read_text()) if path.is_file() else None


def table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|" + "---|" * head.count(" | ") + "---|", *rows])


def against_table(out: Path) -> str | None:
    """One level, every prefix of four levels, and H.264 at equal bits; None if a run is missing."""
    four, one = (figures_of(out, experiment.name) for experiment in AGAINST)
    if not four or not one:
        return None
    rows = []
    for label, found in (("four levels, first", four), ("one level", one)):
        for k, bpp in enumerate(found["bpp_by_prefix"]):
            name = label if found is one else f"{label} {k + 1}"
            used = f"{found['codes_used'][k]:,} of {found['codes_possible'][k]:,}"
            quality = f"{found['psnr_by_prefix'][k]:.2f} dB | {found['ssim_by_prefix'][k]:.3f}"
            rows.append(f"| {name} | {bpp:.5f} | {quality} | {used} | {found['dead_bits'][k]} |")
    h264 = four["h264"]
    rows.append(f"| H.264 (x264 veryslow) | {h264['bpp']:.5f} | {h264['psnr']:.2f} dB | {h264['ssim']:.3f} | | |")
    return table("| | bits per pixel | PSNR | SSIM | codes used | dead bits |", rows)


def seeds_table(out: Path) -> str | None:
    """PSNR by prefix of four levels on moving shapes, one row per finished seed; None if there are none."""
    rows = []
    for seed in range(99):
        if not (found := figures_of(out, f"shapes-seed-{seed}")):
            break
        psnr = " | ".join(f"{value:.2f}" for value in found["psnr_by_prefix"])
        used = ", ".join(f"{used}" for used in found["codes_used"])
        balance = ", ".join(f"{value:.2f}" for value in found["bit_balance"])
        rows.append(f"| {seed} | {psnr} | {used} of {found['codes_possible'][0]} | {balance} | {found['h264']['psnr']:.2f} |")
    if not rows:
        return None
    return table("| seed | 1 level, dB | 2 | 3 | 4 | codes used by level | least even bit by level | H.264, dB |", rows)


def temporal_table(out: Path) -> str | None:
    """PSNR by frames per cell, for the half of the clips with less and with more motion; None if no run is finished."""
    rows = []
    for kind, experiments in (("moving shapes", ON_SHAPES), ("real clips", ON_CLIPS)):
        for frames, experiment in zip((2, 4, 8), experiments, strict=True):
            if found := figures_of(out, experiment.name):
                slow, fast = (found["psnr_by_motion"][half][-1] for half in ("slow", "fast"))
                bits = f"{found['bpp_by_prefix'][-1]:.4f}"
                rows.append(f"| {kind} | {frames} | {bits} | {slow:.2f} dB | {fast:.2f} dB | {slow - fast:.2f} dB |")
    return table("| | frames a cell | bits per pixel | little motion | much motion | lost to motion |", rows) if rows else None


def write_tables(out: Path) -> None:
    """Replace the tables of RESULTS.md that `out` has figures for."""
    text = RESULTS.read_text()
    for name, made in (("against", against_table(out)), ("seeds", seeds_table(out)), ("temporal", temporal_table(out))):
        marked = re.compile(rf"(<!-- experiment: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if made and not marked.search(text):
            sys.exit(f"{RESULTS}: the markers of table '{name}' are missing; add <!-- experiment: {name} --> and <!-- end -->")
        text = marked.sub(lambda found, made=made: found[1] + made + "\n" + found[2], text) if made else text
    RESULTS.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of shards and runs")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("shapes").add_argument("--seeds", type=int, default=3)
    what.add_parser("clips").add_argument("src", help="folder of captioned videos, or a TSV")
    what.add_parser("tables")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    shards = out / arguments.what
    if arguments.what == "tables":
        return write_tables(out)
    if not shards.is_dir():
        make = ["moving-shapes", str(shards), "--num", "4000", "--seed", "1", "--objects", "1"]
        make = ["pack", arguments.src, str(shards), "--per-shard", "16"] if arguments.what == "clips" else make
        subprocess.run([HITVIDEO, "data", *make], cwd=ROOT, check=True)
    run_all([*AGAINST, *ON_CLIPS] if arguments.what == "clips" else [*seeds(arguments.seeds), *ON_SHAPES], out, shards)
    return None


if __name__ == "__main__":
    main()
