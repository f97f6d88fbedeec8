"""Commands that show files, machines and runs."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hitvideo.commands.common import check_output, progress_bar
from hitvideo.errors import ConfigError
from hitvideo.runs.program import EXIT_DONE, EXIT_FAULT

if TYPE_CHECKING:
    import torch


def export(words: argparse.Namespace) -> None:
    from hitvideo.checkpoints.export import export_weights, llama_file
    from hitvideo.checkpoints.listing import newest
    from hitvideo.ops.precision import DTYPES
    from hitvideo.runs.directory import RunDirectory

    out = words.out
    if words.names == "run":
        _export_run(words, DTYPES[words.dtype])
        return
    if words.upload:
        raise ConfigError("--upload goes with --names run, which writes a model card")
    if words.names == "llama":
        out = llama_file(out)
    check_output(out, ".safetensors")
    run = RunDirectory.open(words.run)
    checkpoint = newest(run.checkpoints)
    if checkpoint is None:
        raise ConfigError(f"{run.checkpoints}: no complete checkpoint yet; train the run first")
    export_weights(checkpoint, run.settings, out, words.names, DTYPES[words.dtype])
    print(f"{out}: weights of {checkpoint}")


def _export_run(words: argparse.Namespace, dtype: torch.dtype) -> None:
    from hitvideo.generation.bundle import write_bundle
    from hitvideo.generation.upload import check_upload, upload

    if words.upload:
        check_upload(words.upload)
    size = write_bundle(words.run, words.out, dtype)
    print(f"{words.out}: {size / 1e6:.1f} MB; hitvideo generate --run {words.out}")
    if words.upload:
        print(upload(words.out, words.upload))


def inspect(words: argparse.Namespace) -> int:
    from hitvideo.reports.inspection import decode_sample, describe, describe_all

    if words.decode:
        if len(words.file) > 1:
            raise ConfigError("--decode takes one token shard")
        from hitvideo.video.encode import contact_sheet

        out = words.out or Path(f"{Path(words.decode).name}.png")
        check_output(out, ".png")
        contact_sheet(decode_sample(words.file[0], words.decode, words.weights), out)
        print(f"{out}: with 1, 2, … levels, one row each")
        return EXIT_DONE
    if len(words.file) == 1:
        _show(describe(words.file[0]), words.json)
        return EXIT_DONE
    failed = False
    with progress_bar(len(words.file), "file") as bar:
        for figures in describe_all(words.file, words.jobs, bar.update):
            failed |= "error" in figures
            with bar.external_write_mode():  # the bar leaves the line while figures are printed
                _show(figures, words.json)
    return EXIT_FAULT if failed else EXIT_DONE


def _show(figures: dict[str, Any], as_json: bool) -> None:
    """Print a file's figures, for people or as one line of JSON."""
    if as_json:
        print(json.dumps(figures))
        return
    rows = figures.pop("levels", figures.pop("samples", []))
    bad = figures.pop("bad", [])
    for key, value in figures.items():
        print(f"{key:14} {value}")
    for name, reason in bad:
        print(f"bad            {reason}: {name}")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


def doctor(words: argparse.Namespace) -> int:
    from hitvideo.cluster import doctor
    from hitvideo.cluster.doctor_run import COLLECTIVES, run_checks
    from hitvideo.settings.programs import load_settings

    if words.override and not words.run:
        raise ConfigError(f"{words.override[0]}: settings need --run RUN.yaml")
    checks = run_checks(load_settings(words.run, words.override)) if words.run else {}
    if os.environ.get("RANK", "0") != "0":  # of torchrun: it takes part, and rank 0 tells
        doctor.checked({name: check for name, check in checks.items() if name == COLLECTIVES})
        return EXIT_DONE
    facts, findings = doctor.facts(), [*doctor.machine_findings(), *doctor.checked(checks)]
    if words.json:
        print(json.dumps(doctor.as_json(facts, findings)))
    else:
        print((doctor.as_issue if words.issue else doctor.as_text)(facts, findings))
    return EXIT_FAULT if any(each.state == "fail" for each in findings) else EXIT_DONE


def report(words: argparse.Namespace) -> None:
    from hitvideo.reports.page import write

    with progress_bar(None, "curve") as bar:
        print(json.dumps(write(words.run, words.jobs, bar.update)))
