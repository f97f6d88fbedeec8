"""The plan of the house, read from the source with `ast`: floors, walls, doors, no circles, short files, settled words."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROGRAMS = ("hitvideo", "tokenize_shards", "pretrain")
LONGEST_FILE = 300

# A module is on the floor of its longest prefix here and may import its own floor and below.
FLOORS = {
    "hitvideo.commands": 8, "hitvideo.api": 8,
    "pretrain": 7, "hitvideo.cluster": 7, "hitvideo.evaluation": 7, "hitvideo.reports": 7,
    "hitvideo.serving": 7, "hitvideo.measuring": 7,
    "tokenize_shards": 6, "hitvideo.parallel": 6, "hitvideo.generation": 6, "hitvideo.planning": 6,
    "hitvideo.data": 5, "hitvideo.runs": 5, "hitvideo.tracking": 5, "hitvideo.llm": 5,
    "hitvideo.sequence": 4, "hitvideo.video_tokenizer": 4, "hitvideo.checkpoints": 4, "hitvideo.video": 4,
    "hitvideo.settings": 3, "hitvideo.moving_shapes": 3,
    "hitvideo.hierarchy": 2, "hitvideo.files": 2, "hitvideo.metrics": 2, "hitvideo.ops": 2,
    "hitvideo.config": 1, "hitvideo.errors": 1, "hitvideo.processes": 1, "hitvideo.settings.named_files": 1,
}  # fmt: skip
GROUND_FLOOR = {"pydantic", "yaml", "hitvideo"} | sys.stdlib_module_names

# Neither imports the other's name, at the top or inside a function.
WALLS = [
    ("hitvideo.video_tokenizer", "hitvideo.llm"),
    ("hitvideo.llm", "hitvideo.video_tokenizer"),
    ("hitvideo.llm", "hitvideo.parallel"),
    ("hitvideo.generation", "hitvideo.parallel"),
    ("hitvideo.checkpoints", "hitvideo.parallel"),
    ("tokenize_shards", "pretrain"),
    ("pretrain", "tokenize_shards"),
]

# The only modules (or rooms) that may import a heavy package.
DOORS = {
    "deepspeed": ("hitvideo.parallel.engine",),
    "megatron": ("hitvideo.parallel",),
    "flash_attn": ("hitvideo.ops.attention",),
    "apex": ("hitvideo.ops.norm",),
    "mlflow": ("hitvideo.tracking.store",),
    "sentencepiece": ("hitvideo.sequence.text",),
    "av": ("hitvideo.video",),
    "webdataset": ("hitvideo.data",),
    "fastapi": ("hitvideo.serving",),
    "uvicorn": ("hitvideo.serving",),
    "huggingface_hub": ("hitvideo.generation.upload",),
}
MOST_LOOSE_FILES = 6  # at the top of hitvideo/, besides __init__.py

# Parts of names that are not used, because the README's table of words has another word; and whole names that are not used.
BANNED_WORDS = {"cfg", "ckpt"}
BANNED_NAMES = {"tokenizer", "Tokenizer", "Clip", "Judges", "Judgement", "Job", "pos_ids", "write_whole", "Integers"}
# Words of the prose that a stranger stumbles over. "Standing" as in running is fine; "stands in" for "is in" is not.
BANNED_PROSE = re.compile(r"\bmend(s|ed|ing)?\b|\bstands? (in|at|for|beside|on)\b|\bso (many|long|often) (in|it|as)\b")


PROSE = [
    *(path for program in PROGRAMS for path in sorted((ROOT / program).rglob("*.py"))),
    *sorted((ROOT / "yaml_configs").rglob("*.yaml")),
    *sorted((ROOT / "slurm").glob("*.sh")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "decisions.md"),  # which quotes what it left
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    paths = [path for program in PROGRAMS for path in sorted((ROOT / program).rglob("*.py"))]
    return {module_name(path): ast.parse(path.read_text()) for path in paths}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def floor(module: str) -> int:
    found = [package for package in FLOORS if inside(module, package)]
    assert found, f"{module} is on no floor; give it a place in FLOORS"
    return FLOORS[max(found, key=len)]


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
        if not lazy and not typing_only:
            yield child
            yield from at_import(child)


def imports(module: str, top_level_only: bool = False) -> set[str]:
    """Names of modules, ours in full: `from hitvideo import config` is hitvideo.config."""
    found = set()
    for node in at_import(trees()[module]) if top_level_only else ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import; write the whole name"
            assert node.module
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & trees().keys()
            found |= modules
            if len(modules) < len(names):
                found.add(node.module)
    return found


def ours(names: set[str]) -> set[str]:
    return names & trees().keys()


def test_the_house_is_seen() -> None:
    """The rules below hold for no tree at all, too; so first: files and imports are found."""
    assert len(trees()) > 40
    assert "hitvideo.config" in imports("hitvideo.settings.programs")
    assert "mlflow" in imports("hitvideo.tracking.store")
    assert "mlflow" not in imports("hitvideo.tracking.store", top_level_only=True)


def test_floors() -> None:
    for module in trees():
        if module != "hitvideo":
            for other in ours(imports(module)) - {"hitvideo"}:
                assert floor(other) <= floor(module), f"{module} (floor {floor(module)}) imports {other} ({floor(other)})"


def test_every_floor_entry_exists() -> None:
    assert FLOORS.keys() <= trees().keys()


def test_ground_floor_is_light() -> None:
    for module in trees():
        if module != "hitvideo" and floor(module) == 0:
            roots = {name.partition(".")[0] for name in imports(module, top_level_only=True)}
            assert roots <= GROUND_FLOOR, f"{module} imports {roots - GROUND_FLOOR}"


@pytest.mark.parametrize(("here", "there"), WALLS)
def test_walls(here: str, there: str) -> None:
    for module in trees():
        if inside(module, here):
            crossing = {name for name in imports(module) if inside(name, there)}
            assert not crossing, f"{module} imports {crossing}"


@pytest.mark.parametrize("package", DOORS)
def test_doors(package: str) -> None:
    users = {module for module in trees() if any(inside(name, package) for name in imports(module))}
    assert users, f"nobody imports {package}; take its door out"
    strangers = {module for module in users if not any(inside(module, door) for door in DOORS[package])}
    assert not strangers, f"{strangers} import {package}"


def test_no_circles() -> None:
    graph = {module: ours(imports(module, top_level_only=True)) - {module} for module in trees()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_short_files() -> None:
    lengths = {path: len(path.read_text().splitlines()) for program in PROGRAMS for path in (ROOT / program).rglob("*.py")}
    long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not long


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(word := getattr(node, field, None), str):
                yield word


def test_banned_words() -> None:
    for module, tree in trees().items():
        used = {word for name in identifiers(tree) for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name)}
        banned = {word for word in used if word.lower() in BANNED_WORDS}
        assert not banned, f"{module} says {banned}; see the table of words"


def test_banned_names() -> None:
    for module, tree in trees().items():
        banned = BANNED_NAMES & set(identifiers(tree))
        assert not banned, f"{module} says {banned}; see the table of words"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_plain_words(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    found = [f"{number}: {line.strip()}" for number, line in lines if BANNED_PROSE.search(line)]
    assert not found, f"{path}: {found}"


def test_few_loose_files() -> None:
    loose = sorted(path.name for path in (ROOT / "hitvideo").glob("*.py") if path.name != "__init__.py")
    assert len(loose) <= MOST_LOOSE_FILES, f"{loose}: give the newest one a room"


def test_rooms_are_packages_with_tests() -> None:
    rooms = {path.parent.name for path in (ROOT / "hitvideo").glob("*/__init__.py")}
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert rooms <= tested, f"rooms without a folder of tests: {rooms - tested}"


def test_no_test_imports_another_test() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            if isinstance(node, ast.Import | ast.ImportFrom):
                tests = [name for name in names if re.search(r"(^|\.)test_\w+$", name)]
                assert not tests, f"{path}: imports {tests}; put what they share into a helper"


def test_the_command_line_is_light() -> None:
    code = "import sys, hitvideo.commands.cli; hitvideo.commands.cli.parser(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "hitvideo.commands.cli" in loaded
    assert not loaded & {"torch", "pydantic", "yaml", "deepspeed", "megatron", "mlflow", "av", "numpy"}
