"""Checks the commands of a code block against the real parsers, settings, scripts and targets, without running them."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from experiments.__main__ import NAMES as EXPERIMENTS
from hitvideo import config
from hitvideo.commands import cli
from hitvideo.errors import HiTVideoError
from hitvideo.runs.changes import allowed_changes
from hitvideo.settings.explain import find
from hitvideo.settings.named_files import yaml_file
from hitvideo.settings.programs import COMMANDS, load_settings
from tests.conftest import ROOT
from tokenize_shards.__main__ import parse as parse_job

PROGRAMS = {command: program for program, command in COMMANDS.items()}
SIZES = "slurm/pretrain_(1b|3b|7b|13b).sh"


class WrongCommandError(AssertionError):
    """A command that the code does not have."""


def simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a script: without comments, assignments and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = list(lexer)
        for number, token in enumerate([*tokens, ";"]):
            if set(token) <= set(";|&"):
                while words and re.match(r"[A-Za-z_]\w*=", words[0]):
                    del words[0]
                if words:
                    yield words
                words = []
            elif not set(token) <= set("<>") and not (number and set(tokens[number - 1]) <= set("<>")):
                words.append(token)


def check(words: Sequence[str]) -> bool:
    """Whether the command is one of this project's; raises WrongCommandError if it is and cannot be typed so.

    Files of settings are looked for in the working directory; one that is not there, such as RUN.yaml, is not read, and the
    keys that are set on it must be some program's.
    """
    kind = next((each for each in CHECKS if words[0] == each), None)
    if kind is None:
        return False
    try:
        return CHECKS[kind](list(words[1:]))
    except (HiTVideoError, AssertionError) as error:
        raise WrongCommandError(f"{shlex.join(words)}: {error}") from error


def _hitvideo(words: list[str]) -> bool:
    if words == ["--version"]:
        return True
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            found = cli.parsed(words)
    except SystemExit:
        raise AssertionError(errors.getvalue()) from None
    if overrides := getattr(found, "override", []):
        _settings(getattr(found, "file", None) or found.run, overrides)
    elif getattr(found, "file", None) and found.command.__name__ in ("_config", "show_plan", "slurm"):
        _settings(found.file, [])
    return True


def _python(words: list[str]) -> bool:
    if words[:1] == ["-c"]:
        compile(words[1], "-c", "exec")
        return True
    return _module(words[1], words[2:]) if words[:1] == ["-m"] else False


def _torchrun(words: list[str]) -> bool:
    if "--no-python" in words:
        return check(words[words.index("--") + 1 :])
    place = words.index("-m")
    return _module(words[place + 1], words[place + 2 :])


def _module(name: str, words: list[str]) -> bool:
    if name in ("venv", "pip"):
        return False
    if name == "experiments":
        assert words[0] in (*EXPERIMENTS, "--list"), f"no experiment {words[0]}"
    elif name in PROGRAMS:
        _program(name, words)
    else:
        assert find_spec(name), f"no module {name}"
    return True


def _program(name: str, words: list[str]) -> None:
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            others, _ = allowed_changes(words)
            file, overrides = parse_job(others) if name == "tokenize_shards" else (others[0], others[1:])
    except SystemExit:
        raise AssertionError(errors.getvalue()) from None
    _settings(yaml_file(file), overrides, PROGRAMS[name])


def _settings(file: Path, overrides: Sequence[str], program: str | None = None) -> None:
    if file.is_file():
        found = load_settings(file, overrides)
        assert program in (None, found.program), f"{file} is for {found.program}"
        return
    assert file.name == "RUN.yaml" or not str(file).startswith("yaml_configs"), f"no file {file}"
    for key in config.flat(config.apply_overrides({}, overrides)):
        assert key in all_keys(), f"no key {key}"


@cache
def all_keys() -> set[str]:
    """The dotted keys of all programs."""
    return {key.dotted for keys in find("").values() for key in keys}


def _sbatch(words: list[str]) -> bool:
    place = next(number for number, word in enumerate(words) if not word.startswith("-"))
    script, rest = words[place], words[place + 1 :]
    if script == "…":
        return True
    assert (ROOT / script).is_file(), f"no script {script}"
    if script == "slurm/generate.sh":
        return _hitvideo(["generate", *rest])
    if script == "slurm/text_tokenizer.sh":
        return _hitvideo(["data", "text-tokenizer", *rest])
    if script == "slurm/smoke.sh":
        _settings(ROOT / "yaml_configs/pretrain_tokenizer/tiny.yaml", rest)
    elif size := re.fullmatch(SIZES, script):
        _settings(ROOT / f"yaml_configs/pretrain/{size[1]}.yaml", rest, "pretrain")
    else:
        names = {"pretrain.sh": "pretrain", "pretrain_tokenizer.sh": "pretrain.video_tokenizer"}
        _program(names.get(Path(script).name, "tokenize_shards"), rest)
    return True


def _bash(words: list[str]) -> bool:
    assert (ROOT / words[0]).is_file(), f"no script {words[0]}"
    assert words[0] != "slurm/pipeline.sh" or len(words) in range(4, 8), "pipeline.sh takes WORK SHARDS PROMPT and three YAMLs"
    return True


def _make(words: list[str]) -> bool:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words:
        assert "=" in word or word in targets, f"no target {word}"
    return True


CHECKS: dict[str, Callable[[list[str]], bool]] = {
    "hitvideo": _hitvideo, "python": _python, "torchrun": _torchrun, "sbatch": _sbatch, "bash": _bash, "make": _make,
}  # fmt: skip


def check_span(text: str) -> bool:
    """Whether inline code names a command of `hitvideo`; raises WrongCommandError if that lacks one of the named options.

    A span may leave arguments out: `hitvideo track sync RUN…`, `hitvideo runs compare`.
    """
    words = text.split()
    if words[0] != "hitvideo" or len(words) < 2 or words[1].startswith("-"):
        return False
    parser: argparse.ArgumentParser = cli.parser()
    for word in words[1:]:
        group = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
        if group is None:
            break
        if word not in group.choices:
            raise WrongCommandError(f"`{text}`: no command {word}; there are {', '.join(group.choices)}")
        parser = group.choices[word]
    known = {option for action in parser._actions for option in action.option_strings}
    for word in words:
        if word.startswith("--") and word.partition("=")[0].strip("…,.") not in known:
            raise WrongCommandError(f"`{text}`: no option {word}")
    return True


def check_key(text: str) -> bool:
    """Whether inline code names a setting, with a value or without; raises WrongCommandError if there is none of that name."""
    key = text.partition("=")[0]
    sections = {each.partition(".")[0] for each in all_keys()}
    if not re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+(=.*)?", text) or key.partition(".")[0] not in sections:
        return False
    if tuple(key.split(".")) in config.RENAMED or key in all_keys() or any(each.startswith(f"{key}.") for each in all_keys()):
        return True
    if key.rpartition(".")[2] in ("json", "yaml", "sh", "py"):
        return False
    raise WrongCommandError(f"`{text}`: no setting {key}")
