"""Pretrain the text + video language model on token shards.

    python -m pretrain yaml_configs/pretrain/tiny.yaml data.manifest=tokens/manifest.json
    torchrun --nproc-per-node 8 -m pretrain yaml_configs/pretrain/1b.yaml data.manifest=… parallel.tensor=2

Run the same command again to resume, on the same number of processes or another. `--allow-change train.lr` (once for each
key) lets the run go on with another value, and records it. Exit code 75: stopped on request.
"""

from __future__ import annotations

from hitvideo.runs.changes import allowed_changes
from hitvideo.runs.program import command_line
from hitvideo.settings.programs import PretrainRun, load_settings_as


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError if the user can fix it."""
    words, allowed = allowed_changes(arguments)
    settings = load_settings_as(PretrainRun, *command_line("pretrain", __doc__, words))
    # After the settings are checked, because these imports take seconds.
    from hitvideo.data.blend import open_tokens
    from pretrain.data_checks import check_shards
    from pretrain.language_model_task import LanguageModelTask, check_data, data_fingerprint
    from pretrain.loop import train
    from pretrain.task import open_run
    from pretrain.usage import facts_of

    dataset = open_tokens(settings.data, settings.clip)
    check_data(settings, dataset)
    with open_run(settings, data_fingerprint(settings, dataset), allowed) as run:
        check_shards(run.topology, dataset, settings.run.seed)
        task = LanguageModelTask(settings, run, dataset)
        run.directory.append_event("facts", facts=facts_of(task, settings))
        return train(task)
