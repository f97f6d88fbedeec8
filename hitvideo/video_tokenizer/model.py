"""The video tokenizer: video ⇄ codes of all levels.

    video_tokenizer, clip = load_video_tokenizer(Path("runs/tiny/weights"))
    codes = video_tokenizer.encode(video)              # coarsest level first
    video_tokenizer.decode(codes[:1], frames=8)        # the storyboard: any prefix of the levels can be decoded
    video_tokenizer.encode(video, chunk=64)            # the same codes, in memory that does not grow with the video

Any number of frames is accepted: the first frame is repeated in front, up to a multiple of the coarsest level's cell, and
the repeats are dropped after decoding (as in VidTok v1.1). So no frame has a special role.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hitvideo.hierarchy import Extent, Grid, Hierarchy
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.autoencoder import Decoder, Encoder, Recompute
from hitvideo.video_tokenizer.conv import PIXEL_CHANNELS, Carry
from hitvideo.video_tokenizer.hierarchical_quantizer import HierarchicalQuantized, HierarchicalQuantizer


@dataclass
class Reconstruction:
    """One forward pass for training; lists are coarsest level first."""

    video: Tensor
    """The decoded video, (B, 3, T, H, W), not clamped."""
    codes: list[Tensor]
    """Every level's indices, (B, t, h, w) int64."""
    sample_entropy: list[Tensor]
    """Each level's mean entropy of a cell's code in nats; zero outside training and for FSQ."""
    tables: list[tuple[Tensor, ...]]
    """Each level's mean code distributions, whose entropy is the batch entropy; empty outside training and for FSQ."""
    commitment: list[Tensor]
    """Each level's mean squared distance of normalised latents and signs; zero outside training and for FSQ."""
    residual: Tensor
    """Mean square of what the kept levels leave over of the latents, whose own mean square is 1."""


class VideoTokenizer(nn.Module):
    """Causal 3D VAE with a hierarchical quantiser."""

    def __init__(self, section: VideoTokenizerSection, hierarchy: Hierarchy, recompute: Recompute = "none") -> None:
        super().__init__()
        self.section = section
        self.hierarchy = hierarchy
        self.encoder = Encoder(section, hierarchy.finest.down, recompute)
        self.quantizer = HierarchicalQuantizer(
            hierarchy, section.quantizers(len(hierarchy.levels)), section.latent_channels, section.level_path
        )
        self.decoder = Decoder(section, hierarchy.finest.down, recompute)

    def forward(
        self,
        video: Tensor,
        prefix: Tensor | None = None,
        shares: Sequence[float] | None = None,
        decoder_only: bool = False,
    ) -> Reconstruction:
        """(B, 3, T, H, W) in [-1, 1] → its reconstruction from the first `prefix[b]` levels of clip b.

        `prefix` None keeps all levels. A prefix of 0 passes that clip's latents unquantised, which helps early training.
        `shares`: the part of the global batch's clips that keeps each level, if these clips are a part of it.
        `decoder_only`: encoder and quantiser keep nothing for the backward pass, and get no gradient.

        Raises ConfigError if H or W is not a multiple of the coarsest level's cell.
        """
        with torch.no_grad() if decoder_only else nullcontext():
            quantized = self.quantize(video, prefix, shares)
        decoded = self.decoder(quantized.latents)  # (B, 3, padded T, H, W)
        return Reconstruction(
            video=decoded[:, :, -video.shape[2] :],
            codes=quantized.codes,
            sample_entropy=quantized.sample_entropy,
            tables=quantized.tables,
            commitment=quantized.commitment,
            residual=quantized.residual,
        )

    def quantize(
        self, video: Tensor, prefix: Tensor | None = None, shares: Sequence[float] | None = None
    ) -> HierarchicalQuantized:
        """The first half of `forward`: a video's latents, quantised for training."""
        quantized: HierarchicalQuantized = self.quantizer(self.encoder(self._pad(video)), prefix, shares)
        return quantized

    @torch.no_grad()
    def encode(self, video: Tensor, levels: int | None = None, chunk: int | None = None) -> list[Tensor]:
        """(B, 3, T, H, W) in [-1, 1] → codes of the first `levels` levels (default: all), each (B, t, h, w) int64.

        `chunk` is the number of frames to process at a time, for long videos; the codes stay the same.
        Raises ConfigError if H or W is not a multiple of the coarsest level's cell.
        """
        if chunk is None:
            return self.quantizer.encode(self.encoder(self._pad(video)), levels)
        pieces = self.encode_stream(torch.split(video, self._whole_cells(chunk), 2), video.shape[2], levels)
        return [torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], frames: int, chunk: int | None = None) -> Tensor:
        """Codes of the first k ≥ 1 levels → (B, 3, frames, H, W) in [-1, 1].

        `frames` is the video's length before encoding; `chunk` is the number of frames to process at a time.
        Raises ValueError if the codes' grids do not fit each other or `frames`.
        """
        cells = codes[0].shape[1]
        length = cells * self._cell
        if not 0 < frames <= length:
            raise ValueError(f"frames={frames}, but {cells} coarsest cells of {self._cell} frames hold 1 to {length} frames")
        if chunk is None:
            return self._decode(codes)[:, :, -frames:].clamp(-1, 1)
        step = self._whole_cells(chunk) // self._cell
        counts = [step * indices.shape[1] // cells for indices in codes]
        pieces = zip(*(torch.split(indices, count, 1) for indices, count in zip(codes, counts, strict=True)), strict=True)
        return torch.cat(list(self.decode_stream(pieces, frames, length)), dim=2)

    @torch.no_grad()
    def decode_prefixes(self, codes: Sequence[Tensor], frames: int) -> Iterator[Tensor]:
        """Yield the video decoded from the first 1, 2, … levels of `codes`, each as `decode` returns it."""
        for levels in range(1, len(codes) + 1):
            yield self.decode(codes[:levels], frames)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor], frames: int, levels: int | None = None) -> Iterator[list[Tensor]]:
        """A video of `frames` frames, in chunks (B, 3, any, H, W) → its codes, piece by piece along time.

        Causal convolutions carry their last frames from chunk to chunk, so the codes equal those of the whole video
        (latents to 1e-5 in fp32) and memory stays that of one chunk. Raises ValueError if the chunks do not have
        `frames` frames in total, ConfigError if H or W is not a multiple of the coarsest level's cell.
        """
        carry: Carry = {}
        missing = -frames % self._cell
        waiting: Tensor | None = None
        seen = 0
        for chunk in chunks:
            seen += chunk.shape[2]
            waiting = self._repeat_first(chunk, missing) if waiting is None else torch.cat((waiting, chunk), dim=2)
            ready = waiting.shape[2] // self._cell * self._cell
            if ready:
                yield self.quantizer.encode(self.encoder(self._pad(waiting[:, :, :ready]), carry), levels)
                waiting = waiting[:, :, ready:]
        if seen != frames:
            raise ValueError(f"the chunks have {seen} frames in total, but frames={frames} was given")

    @torch.no_grad()
    def decode_stream(self, pieces: Iterable[Sequence[Tensor]], frames: int, padded: int | None = None) -> Iterator[Tensor]:
        """The inverse of `encode_stream`: pieces of codes → chunks of the video, (B, 3, ·, H, W) in [-1, 1].

        `padded` is the number of frames that all pieces decode to (default: `frames` rounded up to whole coarsest cells).
        """
        carry: Carry = {}
        drop = (frames + -frames % self._cell if padded is None else padded) - frames
        for piece in pieces:
            video = self._decode(piece, carry)
            if drop < video.shape[2]:
                yield video[:, :, drop:].clamp(-1, 1)
            drop = max(0, drop - video.shape[2])

    def _decode(self, codes: Sequence[Tensor], carry: Carry | None = None) -> Tensor:
        coarsest, finest = self.hierarchy.levels[0].down, self.hierarchy.finest.down
        grid = Grid(*(size * c // f for size, c, f in zip(codes[0].shape[1:], coarsest, finest, strict=True)))
        video: Tensor = self.decoder(self.quantizer.decode(codes, grid), carry)
        return video

    @property
    def _cell(self) -> int:
        """Frames per coarsest cell, the smallest unit that can be encoded."""
        return self.hierarchy.levels[0].down[0]

    def _whole_cells(self, chunk: int) -> int:
        if chunk < self._cell:
            raise ValueError(f"chunk={chunk} is shorter than a coarsest cell; use at least {self._cell} frames")
        return chunk // self._cell * self._cell

    def _pad(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[1] != PIXEL_CHANNELS:
            raise ValueError(f"expected a video (B, 3, T, H, W), got {list(video.shape)}")
        extent = Extent(*video.shape[2:])
        self.hierarchy.grids(extent)
        return self._repeat_first(video, -extent.frames % self._cell)

    @staticmethod
    def _repeat_first(video: Tensor, times: int) -> Tensor:
        return torch.cat((video[:, :, :1].expand(-1, -1, times, -1, -1), video), dim=2) if times else video
