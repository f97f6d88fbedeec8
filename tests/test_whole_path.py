"""The README's commands on real clips, exactly as they stand there, with few steps."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hitvideo.hierarchy import ClipShape
from hitvideo.settings.data import LimitsSection
from hitvideo.video.decode import decode_clip
from tests.samples import ROOT

FEW = {
    "-m pretrain.video_tokenizer": " train.steps=4 train.warmup_steps=1 data.validation_clips=8 train.validation_batches=1",
    "-m pretrain ": " train.steps=4 train.global_batch=4 train.micro_batch=2 train.warmup_steps=1 data.validation_samples=8",
}


@pytest.mark.slow
def test_readme_commands_turn_real_clips_into_a_generated_video(clips: Path, tmp_path: Path) -> None:
    block = re.search(r"<!-- real-clips.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    script = re.sub(r"(?<=[ =])work/", f"{tmp_path}/", block[1]).replace("\\\n", "")
    script = script.replace("SRC", str(clips / "MANIFEST.tsv"))
    lines = [line + next((few for part, few in FEW.items() if part in line), "") for line in script.splitlines()]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "tokens/manifest.json").read_text())
    assert manifest["samples_in"] == 105
    assert manifest["samples_in"] == manifest["samples_out"] + manifest["rejected"]
    made = decode_clip(tmp_path / "coffee.mp4", ClipShape(frames=8, height=32, width=32, fps=8), LimitsSection())
    assert made.std() > 1
    assert (tmp_path / "runs/tiny-llm/report.html").stat().st_size > 50_000
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(last["psnr_by_prefix"]) == 4
