"""Train the video tokenizer on video shards.

    python -m pretrain.video_tokenizer yaml_configs/pretrain_tokenizer/tiny.yaml data.video_shards=shards/
    torchrun --nproc-per-node 8 -m pretrain.video_tokenizer RUN.yaml data.video_shards=…

Run the same command again to resume. `--allow-change train.lr` (once for each key) lets the run go on with another value, and
records it. Exit code 75: stopped on request. The result is runs/NAME/weights/.
"""

from __future__ import annotations

from hitvideo.config import needed
from hitvideo.runs.changes import allowed_changes
from hitvideo.runs.program import command_line, guarded
from hitvideo.settings.programs import VideoTokenizerRun, load_settings_as


def main(arguments: list[str]) -> int:
    """Returns the exit code; raises ConfigError if the user can fix it."""
    words, allowed = allowed_changes(arguments)
    settings = load_settings_as(VideoTokenizerRun, *command_line("pretrain.video_tokenizer", __doc__, words))
    pattern = needed(settings.data.video_shards, "data.video_shards")
    # After the settings are checked, because these imports take seconds.
    from hitvideo.data.video_shards import list_shards
    from pretrain.loop import train
    from pretrain.task import open_run
    from pretrain.usage import facts_of
    from pretrain.video_tokenizer_task import VideoTokenizerTask, data_fingerprint, open_clips

    source = open_clips(settings, list_shards(pattern))
    with open_run(settings, data_fingerprint(settings, source), allowed) as run:
        task = VideoTokenizerTask(settings, run, source)
        run.directory.append_event("facts", facts=facts_of(task, settings))
        return train(task)


if __name__ == "__main__":
    guarded(main)
