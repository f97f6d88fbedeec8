"""Every command in the documents can be typed so: each bash block is parsed, and those marked `run` are run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from hitvideo.settings.named_files import CONFIGS
from tests.conftest import ROOT
from tests.docs.commands import WrongCommandError, check, check_key, check_span, simple_commands
from tests.docs.pages import WRITTEN, Block, blocks, named, spans

BASH = [block for page in WRITTEN for block in blocks(page, "bash")]
RUN_ELSEWHERE = ("real-clips: ",)  # by tests/test_whole_path.py
RUN = [page for page in WRITTEN if any(block.mark == "run" for block in blocks(page))]
REFERENCE = ROOT / "docs/reference"


def folder_of(page: Path, place: Path) -> Path:
    """A folder to be in while a page's commands are looked at: with the YAML blocks that the page says are files."""
    for name in (CONFIGS, "slurm"):
        (place / name).symlink_to(ROOT / name)
    for block in blocks(page, "yaml"):
        if block.mark.startswith("file: "):
            file = place / block.mark.removeprefix("file: ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
    return place


@pytest.mark.parametrize("block", BASH, ids=str)
def test_a_bash_block_can_be_typed(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, f"{block}: {parsed.stderr}"
    monkeypatch.chdir(folder_of(block.page, tmp_path))
    for words in simple_commands(block.text):
        check(words)


def test_marks_are_known_and_skips_have_a_reason() -> None:
    for block in (block for page in WRITTEN for block in blocks(page)):
        kind, _, reason = block.mark.partition(": ")
        assert kind in ("", "run", "skip", "file", "real-clips", "python-example"), f"{block}: {block.mark}"
        assert bool(reason) == (kind not in ("", "run")), f"{block}: say why after 'skip: '"


def test_the_counts(capsys: pytest.CaptureFixture[str], record_property: pytest.RecordProperty) -> None:
    """How many blocks and commands there are; a page that is rewritten should not lose them unseen."""
    skipped = [block for block in BASH if block.mark.startswith("skip: ")]
    run = [block for block in BASH if block.mark == "run" or block.mark.startswith(RUN_ELSEWHERE)]
    commands = [words for block in BASH for words in simple_commands(block.text)]
    ours = sum(words[0] in ("hitvideo", "python", "torchrun", "sbatch", "make") for words in commands)
    text = (
        f"{len(BASH)} bash blocks parsed: {len(run)} are run, {len(skipped)} are not to be run; "
        f"{len(commands)} commands, {ours} of them of this project"
    )
    record_property("documents", text)
    with capsys.disabled():
        print(f"\n{text}")
        for block in skipped:
            print(f"not to be run: {block}: {block.mark.removeprefix('skip: ')}")
    assert len(run) >= 5
    assert ours > 60


@pytest.mark.parametrize("page", WRITTEN, ids=named)
def test_inline_code_names_what_exists(page: Path) -> None:
    for span in spans(page):
        check_span(span)
        check_key(span)


@pytest.mark.parametrize(
    "command",
    [
        "hitvideo generat --run x --prompt y", "hitvideo generate --run x --promt y", "hitvideo runs compare --wher_e a=b",
        "hitvideo plan yaml_configs/pretrain/tiny.yaml train.stepz=3", "hitvideo plan yaml_configs/pretrain/none.yaml",
        "python -m pretrain yaml_configs/pretrain_tokenizer/tiny.yaml", "python -m pretrain RUN.yaml data.manifests=x",
        "torchrun --nproc-per-node 2 -m pretrain yaml_configs/pretrain/tiny.yaml parallel.tensor=0",
        "python -m tokenize_shards --engine rai RUN.yaml", "sbatch slurm/none.sh", "sbatch slurm/pretrain_7b.sh run.nam=x",
        "sbatch --array=0-1 slurm/tokenize_shards.sh yaml_configs/pretrain/tiny.yaml", "make demoo", "python -m none.at.all",
        "bash slurm/pipeline.sh work/", "python -m experiments none",
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = simple_commands(command)
    with pytest.raises((WrongCommandError, ModuleNotFoundError)):
        check(words)


@pytest.mark.parametrize("span", ["hitvideo trak sync RUN…", "hitvideo plan --jsn", "hitvideo runs list --wher x"])
def test_a_wrong_span_is_found(span: str) -> None:
    with pytest.raises(WrongCommandError):
        check_span(span)


@pytest.mark.parametrize("span", ["train.learning_rate=1", "loss.none", "cluster.slurm.tim"])
def test_a_wrong_key_is_found(span: str) -> None:
    with pytest.raises(WrongCommandError):
        check_key(span)


@pytest.mark.parametrize(
    "span", ["hitvideo track", "hitvideo track sync RUN… --uri U", "data.block", "train.lr", "cluster.slurm", "data.blend=[]"]
)
def test_a_right_span_is_seen(span: str) -> None:
    assert check_span(span) or check_key(span)


def test_commands_are_taken_apart() -> None:
    text = "A=1 make a  # why\nhitvideo config x > y && touch z | cat\nhitvideo plan \\\n  'a b' c"
    plan = ["hitvideo", "plan", "a b", "c"]
    assert list(simple_commands(text)) == [["make", "a"], ["hitvideo", "config", "x"], ["touch", "z"], ["cat"], plan]


PYTHON = [block for page in WRITTEN for block in blocks(page, "python")]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            assert node.module
            assert all(hasattr(import_module(node.module), each.name) for each in node.names)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=named)
def test_marked_blocks_run(page: Path, tmp_path: Path) -> None:
    """A page's blocks one after the other, in a folder with the files that the page has written before."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    script = "\n".join(block.text for block in blocks(page, "bash") if block.mark == "run")
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder_of(page, tmp_path), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
