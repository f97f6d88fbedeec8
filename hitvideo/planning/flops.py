"""FLOPs of training on one row or clip, and the share of the devices' peak that they take (MFU).

FLOPs are the algorithm's, without recomputation: 2 per weight and slot in the forward, attention halved because it is
causal, each head only on its own level's slots. The backward takes twice the forward (Kaplan et al. 2020, appendix of PaLM).
Published MFU mostly counts all keys for every query, as if attention were not causal; `full_attention` does so, too.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hitvideo.hierarchy import ClipShape
from hitvideo.llm.model import LanguageModel
from hitvideo.llm.recompute import Recompute
from hitvideo.sequence.layout import make_layout
from hitvideo.settings.cluster import ClusterSection
from hitvideo.settings.programs import PretrainRun, VideoTokenizerRun
from hitvideo.video_tokenizer.model import VideoTokenizer

FORWARD_AND_BACKWARD = 3  # in units of the forward


def meta_model(settings: PretrainRun) -> LanguageModel:
    """The undivided model on the meta device: no memory for its weights."""
    with torch.device("meta"):
        return LanguageModel(settings.llm, make_layout(settings))


def training_flops_per_row(model: LanguageModel, full_attention: bool = False, grouped: float = 0.0) -> float:
    """FLOPs of forward and backward for one row; with `full_attention` each query counts all keys, not half of them.

    `grouped`: share of the rows that are in grouped order, which have START slots besides.
    """
    layout, llm = model.layout, model.section
    slots = layout.mean_slots(grouped)
    trunk = _matrices(model)
    attention = _attention(model, slots) * (1 if full_attention else 0.5)
    heads = (layout.window - 1) * layout.vocab.text_size * llm.width
    for head, grid in zip(model.heads, layout.grids, strict=True):
        # a sub-code's embedding is a look-up, not a product
        matrices = sum(p.numel() for name, p in head.named_parameters() if p.ndim > 1 and "embedding" not in name)
        heads += grid.cells * matrices
    return FORWARD_AND_BACKWARD * float(slots * (2 * trunk + attention) + 2 * heads)


def recomputed_flops_per_row(model: LanguageModel, recompute: Recompute) -> float:
    """FLOPs of one row that the backward pass computes again: none, or with `block` all blocks up to their last product.

    The backward needs the last product's inputs, but not its result.
    """
    slots = model.layout.input_slots()
    attention = _attention(model, slots) / 2
    last = model.section.layers * model.section.width * model.section.hidden
    return float(slots * {"none": 0, "selective": 0, "block": 2 * (_matrices(model) - last) + attention}[recompute])


def _matrices(model: LanguageModel) -> int:
    """Entries of the trunk's matrices."""
    return sum(p.numel() for p in model.trunk.parameters() if p.ndim > 1)


def _attention(model: LanguageModel, slots: float) -> float:
    """FLOPs of one query with the keys of `slots` slots in the forward: q·k and p·v of all layers."""
    return model.section.layers * 2 * 2 * slots * model.section.width


def mfu(flops_per_second: float, world: int, cluster: ClusterSection) -> float:
    """Return model FLOPs utilisation: the share of the devices' dense peak that the algorithm's FLOPs take."""
    return flops_per_second / (world * cluster.peak_tflops * 1e12)


def training_flops_per_clip(settings: VideoTokenizerRun, clip: ClipShape | None = None) -> float:
    """FLOPs of the tokenizer's forward and backward, counted by torch on a pass without data.

    Discriminator and LPIPS are not counted, because they are not part of the trained tokenizer.
    """
    extent = (clip or settings.clip).extent
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        VideoTokenizer(settings.video_tokenizer, settings.hierarchy)(torch.empty(1, 3, *extent))
    return FORWARD_AND_BACKWARD * float(counter.get_total_flops())


def encoding_flops_per_clip(settings: VideoTokenizerRun) -> float:
    """FLOPs of one clip's way to codes, as a tokenization job computes it."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        VideoTokenizer(settings.video_tokenizer, settings.hierarchy).eval().encode(torch.empty(1, 3, *settings.clip.extent))
    return float(counter.get_total_flops())
