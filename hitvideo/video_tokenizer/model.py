"""VideoTokenizer: video ⇄ codes of all levels, and its two files on disk.

    tokenizer, clip = load_video_tokenizer(Path("runs/tiny/weights"))
    codes = tokenizer.encode(video)                    # coarsest level first
    tokenizer.decode(codes[:1], frames=8)              # the storyboard: any prefix of the levels decodes
    tokenizer.encode(video, chunk=64)                  # the same codes, in memory that does not grow with the video

Any number of frames is accepted: the first frame is repeated in front up to a multiple of the coarsest level's cell,
and those frames are dropped again after decoding (after VidTok v1.1), so no frame has a special role.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hitvideo.hierarchy import Extent, Grid, Hierarchy
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.autoencoder import Decoder, Encoder
from hitvideo.video_tokenizer.conv import PIXEL_CHANNELS, Carry
from hitvideo.video_tokenizer.hierarchical_quantizer import HierarchicalQuantizer


@dataclass
class Reconstruction:
    """What training needs of one forward pass; lists are coarsest level first."""

    video: Tensor
    """(B, 3, T, H, W), not clamped."""
    codes: list[Tensor]
    """Every level's indices, (B, t, h, w) int64."""
    entropy: list[Tensor]
    """Per-sample minus batch entropy, nats; zero outside training and for FSQ."""
    commitment: list[Tensor]
    """Mean squared distance of normalised latents and signs; zero outside training and for FSQ."""
    residual: Tensor
    """What the kept levels leave over of the latents, a mean square; latents have mean square 1."""


class VideoTokenizer(nn.Module):
    """Causal 3D VAE with a hierarchical quantiser."""

    def __init__(self, section: VideoTokenizerSection, hierarchy: Hierarchy) -> None:
        super().__init__()
        self.section = section
        self.hierarchy = hierarchy
        self.encoder = Encoder(section, hierarchy.finest.down)
        self.quantizer = HierarchicalQuantizer(hierarchy, section.quantizer, section.latent_channels)
        self.decoder = Decoder(section, hierarchy.finest.down)

    def forward(self, video: Tensor, prefix: Tensor | None = None) -> Reconstruction:
        """(B, 3, T, H, W) in [-1, 1] → its reconstruction from the first `prefix[b]` levels of clip b.

        `prefix` None: all levels; 0: that clip's latents pass unquantised (a help in early training).

        Raises ConfigError where H or W is no multiple of the coarsest level's cell.
        """
        quantized = self.quantizer(self.encoder(self._pad(video)), prefix)
        decoded = self.decoder(quantized.latents)  # (B, 3, padded T, H, W)
        return Reconstruction(
            video=decoded[:, :, -video.shape[2] :],
            codes=quantized.codes,
            entropy=quantized.entropy,
            commitment=quantized.commitment,
            residual=quantized.residual,
        )

    @torch.no_grad()
    def encode(self, video: Tensor, levels: int | None = None, chunk: int | None = None) -> list[Tensor]:
        """(B, 3, T, H, W) in [-1, 1] → codes of the first `levels` levels (all by default), each (B, t, h, w) int64.

        `chunk`: frames that pass at a time, for long videos; the codes are those of the whole pass.
        Raises ConfigError where H or W is no multiple of the coarsest level's cell.
        """
        if chunk is None:
            return self.quantizer.encode(self.encoder(self._pad(video)), levels)
        pieces = self.encode_stream(torch.split(video, self._whole_cells(chunk), 2), video.shape[2], levels)
        return [torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True)]

    @torch.no_grad()
    def decode(self, codes: Sequence[Tensor], frames: int, chunk: int | None = None) -> Tensor:
        """Codes of the first k ≥ 1 levels → (B, 3, frames, H, W) in [-1, 1].

        `frames` is the length before encoding; `chunk`: frames that pass at a time, for long videos.
        Raises ValueError where the codes' grids do not fit each other or `frames`.
        """
        cells = codes[0].shape[1]
        length = cells * self._cell
        if not 0 < frames <= length:
            raise ValueError(f"{cells} coarsest cells of {self._cell} frames hold 1 to {length} frames, not {frames}")
        if chunk is None:
            return self._decode(codes)[:, :, -frames:].clamp(-1, 1)
        step = self._whole_cells(chunk) // self._cell
        counts = [step * indices.shape[1] // cells for indices in codes]
        pieces = zip(*(torch.split(indices, count, 1) for indices, count in zip(codes, counts, strict=True)), strict=True)
        return torch.cat(list(self.decode_stream(pieces, frames, length)), dim=2)

    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor], frames: int, levels: int | None = None) -> Iterator[list[Tensor]]:
        """A video of `frames` frames in chunks (B, 3, any, H, W) → its codes, piece by piece along time.

        The causal convolutions carry their last frames from chunk to chunk, so codes equal those of the whole video
        (latents to 1e-5 in fp32) and memory stays that of one chunk. Raises ValueError where the chunks have not
        `frames` frames in all, ConfigError where H or W does not fit.
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
            raise ValueError(f"the chunks hold {seen} frames, the video was said to have {frames}")

    @torch.no_grad()
    def decode_stream(self, pieces: Iterable[Sequence[Tensor]], frames: int, padded: int | None = None) -> Iterator[Tensor]:
        """The inverse of `encode_stream`: pieces of codes → chunks of the video, (B, 3, ·, H, W) in [-1, 1].

        `padded`: frames that all pieces decode to; by default `frames` rounded up to whole coarsest cells.
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
        """Frames of a coarsest cell: the step in which codes can be made."""
        return self.hierarchy.levels[0].down[0]

    def _whole_cells(self, chunk: int) -> int:
        if chunk < self._cell:
            raise ValueError(f"a chunk of {chunk} frames is shorter than a coarsest cell, {self._cell} frames")
        return chunk // self._cell * self._cell

    def _pad(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[1] != PIXEL_CHANNELS:
            raise ValueError(f"a video is (B, 3, T, H, W), got {list(video.shape)}")
        extent = Extent(*video.shape[2:])
        self.hierarchy.grids(extent)
        return self._repeat_first(video, -extent.frames % self._cell)

    @staticmethod
    def _repeat_first(video: Tensor, times: int) -> Tensor:
        return torch.cat((video[:, :, :1].expand(-1, -1, times, -1, -1), video), dim=2) if times else video
