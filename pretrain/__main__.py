"""Pretrain the text + video language model on token shards.

    python -m pretrain yaml_configs/pretrain/tiny.yaml data.manifest=tokens/manifest.json
    torchrun --nproc-per-node 8 -m pretrain yaml_configs/pretrain/1b.yaml data.manifest=… parallel.tensor=2

The same command again resumes, on the same number of processes or another. Exit code 75: stopped on request.
"""

from __future__ import annotations

from hitvideo.data.blend import open_tokens
from hitvideo.runs.program import command_line, guarded
from hitvideo.settings.programs import PretrainRun, load_settings_as
from pretrain.language_model import _check_tokenizer, make_job
from pretrain.loop import opened, train


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError for what the user can mend."""
    settings = load_settings_as(PretrainRun, *command_line("pretrain", __doc__, arguments))
    dataset = open_tokens(settings.data, settings.clip)
    _check_tokenizer(settings, dataset)
    with opened(settings) as (topology, directory, tracker):
        return train(make_job(settings, dataset, topology, directory, tracker))


if __name__ == "__main__":
    guarded(main)
