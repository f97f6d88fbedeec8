"""The comparisons that `hitvideo benchmark` lists and runs; each is `python -m benchmarks.NAME`.

In each, ours and its peers take turns in one process. It prints medians, their ratio, and ours as a fraction of what the
machine reaches at best, measured in the same run.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One comparison. `needs` and `optional`: names that Python imports → what to install."""

    name: str
    compares: str
    ceiling: str
    needs: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)


_LITDATA = "pip install --no-deps litdata obstore tifffile boto3 botocore s3transfer jmespath"
_TRANSFORMERS = {"transformers": "pip install transformers"}
_DIFFUSERS = {"diffusers": "pip install diffusers"}

ROWS = (
    Row("llama", "a training step against Hugging Face's Llama, both with AdamW", "a matrix product", _TRANSFORMERS),
    Row("fsdp2", "a training step of ZeRO-3 against torch's FSDP2, on two processes", "FSDP2 itself", _TRANSFORMERS),
    Row("generation", "decoding plans against Hugging Face's generate and a plain loop", "a copy in memory", _TRANSFORMERS),
    Row("video_tokenizer", "encoding and decoding against Cosmos' tokenizer", "a convolution", _DIFFUSERS),
    Row("vidtok", "encoding against a network of VidTok's shape", "a convolution"),
    Row("loader", "rows of token shards against webdataset, litdata and a Megatron-style map", "a copy in memory",
        {"webdataset": "pip install webdataset"}, {"litdata": _LITDATA}),
    Row("tokenize_job", "the tokenization job against decoding alone and encoding alone", "the slower of the two"),
    Row("overhead", "what logging, tracking and checkpoints add to a step", "a step without them", _TRANSFORMERS),
    Row("tracking", "what an MLflow server adds to a step, and one that never answers", "a step without it"),
    Row("everyday", "start-up, first step, and the commands of every day", "the imports alone"),
)  # fmt: skip
