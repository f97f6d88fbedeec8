"""The `hitvideo` command: look at things, make data, generate, evaluate, report.

    hitvideo generate --run runs/tiny-llm --prompt "a red circle moves right on a black background" --out red.mp4
    hitvideo inspect yaml_configs/parts/hierarchy/paper_4level.yaml --json

Training and tokenizing are programs of their own: python -m pretrain.video_tokenizer, tokenize_shards, pretrain.
This file parses the command line; the modules next to it do what the commands say.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hitvideo.commands import about, benchmark, datasets, evaluation, generation, looking, planning, runs, serving, tracking
from hitvideo.commands.common import add_generator_options, path
from hitvideo.errors import ConfigError
from hitvideo.runs.program import EXIT_DONE, guarded, show_log
from hitvideo.settings.named_files import yaml_file


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with 0, with 2 if the user can fix it (one line says how), with 1 and a traceback otherwise."""
    guarded(_run, arguments)


def _run(arguments: list[str]) -> int | None:
    with suppress(AttributeError):  # a text that the terminal cannot show is escaped
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    words = parsed(arguments)
    show_log()
    try:
        code: int | None = words.command(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    return code


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. Overrides may follow options, which argparse alone does not allow."""
    top = parser()
    words, rest = top.parse_known_args(arguments)
    if rest and (not hasattr(words, "override") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        words.override += rest
    return words


def parser() -> argparse.ArgumentParser:
    """The whole command line; every command has --help."""
    top = argparse.ArgumentParser(prog="hitvideo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action=about.Version, nargs=0, help="print the version, with the commit if it is known")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    p = _add(commands, "config", _config, "print the resolved YAML of a run and what follows from it")
    p.add_argument("file", type=yaml_file, metavar="RUN.yaml", nargs="?", help="a run of any program, or a name of --list")
    p.add_argument("override", nargs="*", help="section.key=value")
    p.add_argument("--explain", action="store_true", help="every key with its value, where it was set, and what it means")
    p.add_argument("--find", metavar="WORD", help="list the keys of all programs whose name or meaning holds WORD")
    p.add_argument("--list", action="store_true", help="list the YAML files that ship; commands find them by these names")

    p = _add(commands, "plan", planning.show_plan, "parameters, memory, time and cost of a training run, before it is started")
    p.add_argument("file", type=yaml_file, metavar="RUN.yaml", help="a run of program pretrain or video_tokenizer")
    p.add_argument("override", nargs="*", help="section.key=value")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    planning.add_plan_options(p)

    p = _add(commands, "benchmark", benchmark.benchmark, "list or run comparisons with other systems, or measure this machine")
    benchmark.add_options(p)

    p = _add(commands, "slurm", planning.slurm, "print or submit the Slurm script of a training run, if it fits the cluster")
    p.add_argument("file", type=yaml_file, metavar="RUN.yaml", help="a run of program pretrain or video_tokenizer")
    p.add_argument("override", nargs="*", help="section.key=value")
    p.add_argument("--nodes", type=int, required=True, help="nodes that train; spare ones come on top")
    p.add_argument("--cluster", type=yaml_file, help="YAML with a `cluster:` section of your site")
    p.add_argument("--submit", action="store_true", help="hand it to sbatch instead of printing it")

    p = _add(commands, "export", looking.export, "a run's weights as one file, or as a folder to hand on")
    p.add_argument("run", type=path, help="run directory")
    p.add_argument("out", type=path, help="FILE.safetensors; with --names llama or run a folder")
    names = "llama: the trunk, for Hugging Face's from_pretrained; run: all that `generate` needs, with a model card"
    p.add_argument("--names", choices=["ours", "llama", "run"], default="ours", help=names)
    p.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="of what is written (default fp32)")
    p.add_argument("--upload", metavar="OWNER/NAME", help="with --names run: upload the folder to this model hub repository")

    p = _add(commands, "inspect", looking.inspect, "figures of hierarchy YAMLs, manifests or shards")
    p.add_argument("file", type=yaml_file, nargs="+", help="a hierarchy's or a run's YAML, a manifest.json, a shard")
    p.add_argument("--jobs", type=int, default=1, help="processes that share the files (default 1)")
    p.add_argument("--json", action="store_true", help="print the figures as JSON, those of several files a line each")
    p.add_argument("--decode", metavar="KEY", help="of a token shard: draw this sample, level by level, as a contact sheet")
    p.add_argument("--out", type=path, help="FILE.png of --decode; default: KEY.png")
    p.add_argument("--weights", type=path, help="the video tokenizer's, if they have moved since tokenizing")

    p = _add(commands, "doctor", looking.doctor, "checks of this machine and of a run, each with what fixes it; 1 if one fails")
    p.add_argument("--run", type=yaml_file, metavar="RUN.yaml", help="check what this run needs: place, space, memory, data")
    p.add_argument("override", nargs="*", help="section.key=value, on top of --run")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    p.add_argument("--issue", action="store_true", help="a block to paste in public, without names, home folders and secrets")

    p = _add(commands, "generate", generation.generate, "draw videos for prompts from a trained run")
    add_generator_options(p)
    p.set_defaults(seed=None)  # to tell a given one from none: --refine and --same refuse it
    p.add_argument("--prompt", action="append", help="give it several times for several videos")
    p.add_argument("--prompts", type=path, metavar="FILE", help="prompts, one a line")
    p.add_argument("--drafts", type=int, metavar="N", help="videos of each prompt, with seeds S, S + 1, … (default 1)")
    p.add_argument("--levels", type=int, help="draw only the first K levels; 1 is the storyboard")
    p.add_argument("--refine", type=path, nargs="+", metavar="FILE", help="go on with drafts: their MP4 or .codes files")
    p.add_argument("--same", type=path, metavar="FILE", help="draw a video again by its settings; exit 1 if its codes differ")
    p.add_argument("--memory-gib", type=float, help="most memory for the cache; default: most of what is free")
    p.add_argument("--out", type=path, help="FILE.mp4; several: FILE-0-PROMPT-seedS.mp4; default: the run's samples")
    p.add_argument("--overwrite", action="store_true", help="replace what --out names, if it is there")

    p = _add(commands, "serve", serving.serve, "a page in the browser: type a prompt, pick a draft, refine it, download it")
    serving.add_options(p)

    p = _add(commands, "show", generation.show, "print the settings that a generated video keeps in its file")
    p.add_argument("file", type=path, help="FILE.mp4 or FILE.codes")
    p.add_argument("--json", action="store_true", help="everything, codes included")

    p = _add(commands, "reconstruct", generation.reconstruct, "draw one video decoded from its first 1, 2, … levels")
    p.add_argument("video", type=path, help="a file that FFmpeg decodes")
    p.add_argument("--weights", type=path, required=True, help="weights directory of a video tokenizer's run")
    p.add_argument("--out", type=path, required=True, help="FILE.png: the original, then 1, 2, … levels")

    kinds = _group(commands, "evaluate", "measure a trained tokenizer or language model")
    p = _add(kinds, "reconstruction", evaluation.evaluate_reconstruction, "quality and codes in use, by prefix of levels")
    p.add_argument("--run", type=path, required=True, help="run directory of a video tokenizer")
    clips = p.add_mutually_exclusive_group(required=True)
    clips.add_argument("--video-shards", type=os.path.expanduser, help="folder or glob of video shards")
    clips.add_argument("--videos", type=path, help="folder of captioned videos, or a TSV, as `data pack` takes them")
    p.add_argument("--lpips-weights", type=path, help="folder with vgg16-397923af.pth and vgg.pth; adds LPIPS")
    p.add_argument("--fvd-weights", type=path, help="i3d_pretrained_400.pt, I3D as TF-Hub has it; adds rFVD")
    p.add_argument("--clips", type=int, help="how many, from the end of the shards; default: those held out of training")
    p.add_argument("--include-training", action="store_true", help="measure clips of training, too")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    p = _add(kinds, "meaning", evaluation.evaluate_meaning, "what each level's pixels and codes say of a scene (moving shapes)")
    p.add_argument("--run", type=path, required=True, help="run directory of a video tokenizer")
    p.add_argument("--num", type=int, default=256, help="clips that are measured (default 256)")
    p.add_argument("--seed", type=int, default=2, help="of the scenes; not the seed of the training set (default 2)")
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    p = _add(kinds, "captions", evaluation.evaluate_captions, "does the video show its caption? (moving shapes only)")
    add_generator_options(p)
    p.add_argument("--num", type=int, default=256, help="videos to generate (default 256)")
    p.add_argument("--combinations", choices=["all", "seen", "held-out"], default="all", help="of a set made with --hold-out")
    p.add_argument("--clip-weights", type=path, help="folder of a CLIP as transformers saves it; adds CLIP similarity")

    p = _add(commands, "report", looking.report, "one HTML page of runs: videos, curves, tables; prints its figures as JSON")
    p.add_argument("run", type=path, nargs="+", help="run directories")
    p.add_argument("--jobs", type=int, default=1, help="processes that share the pictures (default 1)")

    track = _group(commands, "track", "show runs in MLflow")
    p = _add(track, "sync", tracking.sync, "make MLflow's history of runs equal to their directories")
    p.add_argument("run", type=path, nargs="+", help="run directories")
    p.add_argument("--uri", help="MLflow server or store; default: as the run's settings say")
    p.add_argument("--experiment", help="default: as the run's settings say")

    several = _group(commands, "runs", "list and compare runs from their directories, without a tracker")
    p = _add(several, "list", runs.list_runs, "state, step, tokens, losses and speed of each run")
    p.add_argument("root", type=path, nargs="*", help="folders that hold runs, or runs (default: runs)")
    _add_format(p)
    p = _add(several, "compare", runs.compare_runs, "the settings in which runs differ, and their metrics")
    p.add_argument("run", type=path, nargs="*", help="runs, or folders that hold some (default: runs)")
    conditions = "keep runs that meet all: a setting, a metric, state, program, step, tokens; = != < <= > >="
    p.add_argument("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=conditions)
    shown = "settings or metrics: loss, min:loss, max:loss, mean100:loss, loss@step=5000, loss@tokens=2e10"
    p.add_argument("--columns", action="append", default=[], metavar="NAME,…", help=shown)
    p.add_argument("--sort", metavar="NAME", help="a column; --sort=-NAME for the largest first")
    p.add_argument("--top", type=int, metavar="N", help="show only the first N runs")
    _add_format(p)
    p = _add(several, "show", runs.show_run, "one run: attempts, ends, rollbacks, changed settings, checkpoints")
    p.add_argument("run", type=path, help="run directory")
    _add_format(p)

    data = _group(commands, "data", "make and check datasets")
    p = _add(data, "pack", datasets.pack, "pack captioned videos into video shards, in a shuffled order")
    p.add_argument("src", type=path, help="folder of videos with .txt captions, or a table: CSV, TSV, JSON, JSONL, Parquet")
    p.add_argument("out", type=path, help="an empty folder")
    p.add_argument("--per-shard", type=int, default=64, help="videos in a shard (default 64)")
    p.add_argument("--shuffle", type=int, default=0, metavar="SEED", help="seed of the order (default 0)")
    p.add_argument("--no-shuffle", dest="shuffle", action="store_const", const=None, help="keep the order of names or rows")
    p.add_argument("--dry-run", action="store_true", help="check everything but the videos, and write nothing")
    p.add_argument("--root", type=path, help="folder that the files' paths are relative to and must not leave")
    p.add_argument("--file-column", metavar="COLUMN", help="default: file, file_name, path, video, video_path or media_path")
    p.add_argument("--caption-column", metavar="COLUMN", help="default: caption, text or prompt")
    p.add_argument("--file-template", metavar="TEXT", help="the file's path made of columns: '{page_dir}/{videoid}.mp4'")
    p.add_argument("--min", action="append", default=[], metavar="COLUMN=VALUE", help="keep rows with at least this number")
    p.add_argument("--max", action="append", default=[], metavar="COLUMN=VALUE", help="keep rows with at most this number")
    p.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep rows with exactly this text")
    p = _add(data, "moving-shapes", datasets.moving_shapes, "write a captioned synthetic set as real encoded video")
    p.add_argument("out", type=path, help="a folder for the video shards")
    p.add_argument("--num", type=int, required=True, help="videos")
    p.add_argument("--seed", type=int, default=0, help="the same seed gives the same videos (default 0)")
    p.add_argument("--objects", choices=["1", "2", "mixed"], default="mixed", help="things in a video (default mixed)")
    p.add_argument("--hierarchy", type=yaml_file, help="YAML whose `clip:` gives length, size, rate; default 8 frames of 32×32")
    p.add_argument("--per-shard", type=int, default=256, help="videos in a shard (default 256)")
    p.add_argument("--hold-out", type=float, metavar="SHARE", help="leave this share of (colour, shape, motion) out")
    p = _add(data, "text-tokenizer", datasets.text_tokenizer, "train a sentencepiece model on the captions of manifests")
    p.add_argument("manifest", type=path, nargs="+", help="several: those of a blend")
    p.add_argument("out", type=path, help="FILE.model")
    p.add_argument("--vocab-size", type=int, default=32000, help="pieces at most (default 32000)")
    p = _add(data, "verify", datasets.verify, "check every receipt, checksum and sample of a manifest")
    p.add_argument("manifest", type=path, help="manifest.json of a finished tokenization")
    p.add_argument("--jobs", type=int, default=1, help="processes that share the shards (default 1)")

    p = _add(commands, "completions", about.completions, "print a shell's script that completes commands, options and files")
    p.add_argument("shell", choices=about.SHELLS, help='as in: eval "$(hitvideo completions bash)"')
    p.set_defaults(whole=top)
    return top


def _config(words: argparse.Namespace) -> None:
    if words.list:
        about.list_configs()
    elif words.file or words.find:
        planning.show_config(words)
    else:
        raise ConfigError("give RUN.yaml, --find WORD or --list")


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
    p: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    p.set_defaults(command=command)
    return p


def _add_format(p: argparse.ArgumentParser) -> None:
    p.add_argument("--format", choices=["table", "md", "csv", "json"], default="table", help="json and csv have every digit")


def _group(commands: Any, name: str, text: str) -> Any:
    p = commands.add_parser(name, help=text, description=text)
    return p.add_subparsers(title="commands", required=True, metavar="COMMAND")
