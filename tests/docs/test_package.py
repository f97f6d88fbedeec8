"""The package outside its checkout: a wheel in an environment of its own, names of runs that ship, completions of a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from hitvideo.settings.explain import shipped
from hitvideo.settings.named_files import shipped_configs, yaml_file
from hitvideo.settings.programs import load_settings
from tests.conftest import ROOT

SOURCES = ("hitvideo", "pretrain", "tokenize_shards", "yaml_configs")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
SIMULATES = "from hitvideo.planning.simulation.published import rows; assert len(rows()) > 100"
HITVIDEO = Path(sys.executable).with_name("hitvideo")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def output(*words: str | Path, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made from, in a repository with one commit: building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    output("git", "init", "--quiet", cwd=copy)
    output("git", "add", "--all", cwd=copy)
    output("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "All", cwd=copy)
    return copy


@pytest.fixture(scope="module")
def commands(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel, which sees this one's packages behind its own."""
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    output(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, checkout, cwd=place)
    output(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    (site,) = (place / "venv/lib").glob("python*/site-packages")
    (wheel,) = place.glob("hitvideo-*.whl")
    output(*pip, "--python", place / "venv/bin/python", "install", "--no-deps", "--no-index", wheel, cwd=place)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "venv/bin"


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(commands: Path, checkout: Path, tmp_path: Path) -> None:
    found = output(commands / "python", "-c", "import hitvideo, pretrain; print(hitvideo.__file__)", cwd=tmp_path)
    assert found.startswith(str(commands.parent)), "the wheel's package is imported, not this checkout's"
    commit = output("git", "rev-parse", "HEAD", cwd=checkout).strip()
    assert output(commands / "hitvideo", "--version", cwd=tmp_path) == f"hitvideo {VERSION} (commit {commit[:12]})\n"
    listed = output(commands / "hitvideo", "config", "--list", cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in listed] == [each.name for each in shipped()]
    figures = json.loads(output(commands / "hitvideo", "plan", "pretrain/tiny.yaml", "--json", cwd=tmp_path))
    assert figures["parameters"] > 1_000_000
    (tmp_path / "mine.yaml").write_text("base: pretrain/tiny.yaml\nrun: {name: mine}\n")
    settings = yaml.safe_load(output(commands / "hitvideo", "config", "mine.yaml", cwd=tmp_path))
    assert (settings["run"]["name"], settings["llm"]["ancestors"]) == ("mine", True), "its base is the one in the wheel"
    assert (Path(found).parent / "py.typed").is_file()
    words = ("--prompt", "a red circle moves right on a black background", "--out", "red.mp4")
    output(commands / "hitvideo", "generate", "--run", "showcase", *words, cwd=tmp_path)
    assert "showcase" not in [path.name for path in tmp_path.iterdir()], "it is the one in the wheel"
    shown = output(commands / "hitvideo", "show", "red.mp4", cwd=tmp_path)
    assert "a red circle moves right" in shown
    output(commands / "python", "-c", SIMULATES, cwd=tmp_path)


def test_the_version_names_the_commit_of_a_checkout() -> None:
    words = output(HITVIDEO, "--version", cwd=ROOT).split()
    assert words[:2] == ["hitvideo", VERSION]
    if (ROOT / ".git").exists():
        commit = output("git", "rev-parse", "HEAD", cwd=ROOT)
        assert words[2] == "(commit"
        assert commit.startswith(words[3].rstrip(",)"))


def test_every_yaml_that_ships_is_listed_with_what_runs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = {each.name: each for each in shipped()}
    assert sorted(found) == sorted(path.relative_to(shipped_configs()).as_posix() for path in shipped_configs().rglob("*.yaml"))
    for each in found.values():
        assert each.about, f"{each.name} does not say in its first line what it is for"
        assert bool(each.program) != each.name.startswith("parts/")
        for name in (each.name, f"yaml_configs/{each.name}"):
            assert yaml_file(name) == shipped_configs() / each.name
    settings = load_settings(yaml_file("pretrain/7b.yaml"))
    assert settings.run.name == "7b"


def test_a_file_that_is_here_comes_before_one_that_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/tiny.yaml").write_text("program: pretrain\n")
    assert yaml_file("pretrain/tiny.yaml") == Path("pretrain/tiny.yaml")
    for absent in ("pretrain/none.yaml", "../pretrain/7b.yaml", str(tmp_path / "7b.yaml")):
        assert yaml_file(absent) == Path(absent)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["hitvideo", "gen"], {"generate"}),
        (["hitvideo", "runs", "co"], {"compare"}),
        (["hitvideo", "data", "pack", "--file-t"], {"--file-template"}),
        (["hitvideo", "export", "--names", "ll"], {"llama"}),
        (["hitvideo", "plan", "mine"], {"mine.yaml"}),
    ],
)
def test_bash_completes(typed: list[str], completed: set[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    script = output(HITVIDEO, "completions", "bash", cwd=tmp_path)
    function = next(line.split()[-2] for line in script.splitlines() if line.startswith("complete ") and "-F" in line)
    ask = f"COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; {function} {typed[0]} {typed[-1]} {typed[-2]}"
    found = output("bash", "-c", f"{script}\n{ask}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"", cwd=tmp_path)
    assert set(found.split()) == completed
