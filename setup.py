"""What pyproject.toml cannot say: a wheel also holds yaml_configs/ and the commit that it was built from."""

import json
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Copies yaml_configs/ into the package; an editable install reads it from the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "hitvideo"
        shutil.rmtree(package / "yaml_configs", ignore_errors=True)  # of an earlier build
        if (HERE / "yaml_configs").is_dir():
            shutil.copytree(HERE / "yaml_configs", package / "yaml_configs")
        (package / "commit.json").write_text(json.dumps(commit()) + "\n")


def commit() -> dict[str, object]:
    """The keys of `hitvideo.runs.facts`: commit, and whether tracked files differ from it; empty outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True).stdout.strip()

    if not (HERE / ".git").exists():
        return {}
    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return {}


setup(cmdclass={"build_py": BuildWithConfigs})
