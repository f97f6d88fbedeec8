"""The page of metrics: every key of metrics.jsonl with its name in MLflow, its unit and its meaning.

Programs make keys where they compute them, so this list is held against the rows of real runs by a test.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hitvideo.commands.reference.markdown import block, code, table
from hitvideo.runs import history
from hitvideo.tracking.names import metric_name


class Metric(NamedTuple):
    """A key of metrics.jsonl; a `K` in it is the number of a level, or of levels."""

    key: str
    unit: str
    meaning: str

    def fits(self, key: str) -> bool:
        return bool(re.fullmatch(re.sub(r"_K\b", r"_\\d+", self.key), key))


ALL = (
    Metric("time", "s", "Seconds since 1970; MLflow's time of the row."),
    Metric("attempt", "", "Number of the start that logged the row, from 1."),
)
TRAINING = (
    Metric("step", "", "Steps that were taken; not a metric of its own in MLflow."),
    Metric("loss", "", "What is minimised: the mean over the steps since the last row. Its parts follow by program."),
    Metric("grad_norm", "", "Norm of the whole gradient of the last step, before it is clipped to train.clip."),
    Metric("lr", "", "Learning rate of the last step."),
    Metric(
        "tokens_per_s",
        "1/s",
        "Tokens of the rows or clips over all ranks; the time of validation and saving does not count.",
    ),
    Metric("mfu", "share", "FLOPs that the model needs, as a share of cluster.peak_tflops; recomputed ones do not count."),
    Metric("data_wait_s", "s", "Seconds of a step spent waiting for data, mean over ranks."),
    Metric("damaged", "rows", "Rows since the last row of metrics whose sample was damaged, and that another replaced."),
    Metric("skipped", "steps", "Steps that changed nothing because their loss was not finite or jumped; absent if none was."),
    Metric("checkpoint_failed", "", "Checkpoints in a row that could not be written; absent if none."),
    Metric("host_memory_gib", "GiB", "Memory of the largest rank's process."),
    Metric("host_memory_used", "share", "Memory in use on the fullest node, by all processes."),
    Metric("gpu_memory_gib", "GiB", "Most memory that a rank has allocated on its GPU so far."),
    Metric("gpu_load", "share", "Time in which a kernel ran, mean over GPUs."),
    Metric("gpu_watts", "W", "Power, mean over GPUs."),
    Metric("gpu_celsius", "°C", "Temperature of the hottest GPU."),
)
LANGUAGE_MODEL = (
    Metric("loss_level_K", "nats", "Mean nats per index of level K. Evenly drawn codes cost num_bits × 0.693."),
    Metric("loss_text", "nats", "Mean nats per piece of the captions."),
    Metric("grouped", "share", "Steps whose rows were in the order of llm.groups; absent without it."),
    Metric("validation_loss", "", "The loss on held-out samples, the same ones each time."),
    Metric("validation_loss_level_K", "nats", "Of held-out samples."),
    Metric("validation_loss_text", "nats", "Of held-out samples."),
    Metric("validation_grouped_loss", "", "The loss on held-out samples in the order of llm.groups; absent without it."),
    Metric("validation_grouped_loss_level_K", "nats", "The same, of level K."),
    Metric("validation_grouped_loss_text", "nats", "The same, of the captions."),
)
VIDEO_TOKENIZER = (
    Metric("phase", "", "Number of the phase, from 0."),
    Metric("distance", "", "Weighted sum of l1, l2, log_l2 and perceptual."),
    Metric("l1", "", "Mean absolute error of pixels in [-1, 1]."),
    Metric("l2", "", "Mean squared error of pixels in [-1, 1]."),
    Metric("log_l2", "", "Mean over clips of log(l2 of the clip)."),
    Metric("perceptual", "", "LPIPS; present if loss.perceptual.weights is set."),
    Metric("codes", "", "Weighted sum of entropy, commitment and residual; absent in a phase that trains the decoder only."),
    Metric("entropy", "nats", "Per-sample minus batch entropy, mean over levels; negative is good."),
    Metric("entropy_level_K", "nats", "Of level K. About 0: the level says nothing."),
    Metric("commitment", "", "Squared distance of latents to their codes, mean over levels."),
    Metric("commitment_level_K", "", "Of level K."),
    Metric("residual", "", "Squared distance of the sum of all levels to the latents."),
    Metric("used_level_K", "codes", "Different codes of level K in a micro-batch."),
    Metric("balance_level_K", "share", "Share of the rarer value of the most one-sided bit: 0.5 is even, 0 is a dead bit."),
    Metric("adversarial", "", "What the discriminator says of reconstructions, with its sign turned; in adversarial phases."),
    Metric("adversarial_ratio", "", "Factor that makes the adversarial gradient as large as the reconstruction's."),
    Metric("discriminator", "", "Hinge loss of the discriminator; 1: it cannot tell, 0: it always can."),
    Metric("logits_real", "", "Mean logit of the discriminator for videos."),
    Metric("logits_fake", "", "Mean logit of the discriminator for reconstructions."),
    Metric("validation_psnr_first_K", "dB", "PSNR of held-out clips decoded from the first K levels."),
)
TOKENIZING = (
    Metric("step", "clips", "Clips that the task has encoded, those of earlier starts included."),
    Metric("frames_per_s", "1/s", "Frames encoded, since the start."),
    Metric("clips", "clips", "Encoded by this start."),
    Metric("rejected", "videos", "Rejected by this start; each is named with its reason in a receipt."),
    Metric("decode_s", "s", "Spent decoding, summed over the task's processes."),
    Metric("wait_s", "s", "Spent waiting for decoders: decoding is the bottleneck if it is above encode_s."),
    Metric("encode_s", "s", "Spent encoding."),
    Metric("commit_s", "s", "Spent writing token shards and receipts."),
)
SECTIONS = {
    "All programs": ALL,
    "Both training programs": TRAINING,
    "python -m pretrain": LANGUAGE_MODEL,
    "python -m pretrain.video_tokenizer": VIDEO_TOKENIZER,
    "python -m tokenize_shards": TOKENIZING,
}
_INTRODUCTION = """\
# Metrics

`metrics.jsonl` has one JSON object for each logged row. MLflow has the same values under names with a section. Values are means
over the steps since the last row and over all ranks, unless the meaning says otherwise. What good and bad values look like:
[read the metrics](../how-to/read-the-metrics.md).

"""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Files\n\n", block((history.__doc__ or "").split("\n\n")[1])]
    parts.append("\n`from hitvideo.runs.history import read_rows` reads the rows that count, without torch.\n")
    for heading, metrics in SECTIONS.items():
        parts.append(f"\n## {heading}\n\n")
        parts.append(table(("key", "in MLflow", "unit", "meaning"), [_row(metric) for metric in metrics]))
    return "".join(parts)


def _row(metric: Metric) -> tuple[str, str, str, str]:
    name = "" if metric.key in ("step", "time") else metric_name(metric.key.replace("_K", "_0")).replace("_0", "_K")
    return code(metric.key), code(name), metric.unit, metric.meaning
