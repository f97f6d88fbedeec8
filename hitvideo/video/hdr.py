"""HDR pictures for an SDR screen: PQ and HLG to BT.709, with FFmpeg's `mobius` tone curve.

1. Codes become light. PQ is absolute (SMPTE ST 2084). HLG (ITU-R BT.2100) is taken as shown on a screen of 1000 cd/m²,
   with its system gamma of 1.2. In both, 203 cd/m² is the white of a page (ITU-R BT.2408), here 1.0.
2. BT.2020 primaries become BT.709 (ITU-R BT.2087). Colours outside BT.709 are clipped.
3. The largest of R, G and B is compressed: unchanged up to 0.3, then bent so that 1000 cd/m² becomes 1.0.
4. Light becomes codes by the inverse of BT.1886, gamma 2.4.

All pixel arithmetic is single additions and products, so every processor gives the same pixels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from hitvideo.video.pixels import Frames

PQ, HLG = 16, 18  # numbers of H.273
TRANSFERS = (PQ, HLG)
WHITE, SCREEN = 203.0, 1000.0  # cd/m²
PEAK = SCREEN / WHITE
KNEE = 0.3
_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
_BT2020_LUMA = (0.2627, 0.6780, 0.0593)
_GAMMA = 2.4

Light = npt.NDArray[np.float32]


def to_sdr(codes: npt.NDArray[np.uint16], transfer: int) -> Frames:
    """uint16 RGB codes (H, W, 3) of BT.2020 in PQ or HLG → uint8 RGB (H, W, 3)."""
    return _encoded(tone_mapped(_bt709(_light(codes, transfer))))


def tone_mapped(light: Light) -> Light:
    """Light (H, W, 3) with white at 1.0 and up to PEAK → light up to 1.0; hues stay."""
    largest = np.maximum(light.max(axis=2, keepdims=True), np.float32(1e-6))
    a = -(KNEE**2) * (PEAK - 1) / (KNEE**2 - 2 * KNEE + PEAK)
    b = (KNEE**2 - 2 * KNEE * PEAK + PEAK) / (PEAK - 1)
    scale = (b**2 + 2 * b * KNEE + KNEE**2) / (b - a)
    bent = np.float32(scale) * (largest + np.float32(a)) / (largest + np.float32(b))
    mapped: Light = light * (np.where(largest > KNEE, bent, largest) / largest)
    return mapped


def _light(codes: npt.NDArray[np.uint16], transfer: int) -> Light:
    light: Light = _table(transfer)[codes]
    if transfer == HLG:  # the screen's gamma acts on the luminance: R, G and B are multiplied by its power 0.2
        luma = sum(np.float32(weight) * light[..., channel] for channel, weight in enumerate(_BT2020_LUMA))
        light = light * _power_table()[np.rint(luma * np.float32(65535)).astype(np.uint16)][..., None]
    return light


@cache
def _table(transfer: int) -> Light:
    """Code (0 … 65535) → light: for PQ in units of WHITE, for HLG the scene's, 0 … 1."""
    code = np.arange(65536) / 65535
    if transfer == PQ:
        root = code ** (32 / 2523)
        nits = 10000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        return (nits / WHITE).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)


@cache
def _power_table() -> Light:
    """The scene's luminance (0 … 65535 for 0 … 1) → what its light is multiplied by on the screen, in units of WHITE."""
    return (PEAK * (np.arange(65536) / 65535) ** 0.2).astype(np.float32)


def _bt709(light: Light) -> Light:
    rows = [sum(np.float32(weight) * light[..., k] for k, weight in enumerate(row)) for row in _TO_BT709]
    light = np.clip(np.stack(rows, axis=-1), 0, np.float32(PEAK)).astype(np.float32)
    return light


def _encoded(light: Light) -> Frames:
    """Light 0 … 1 → codes 0 … 255, by comparing with the light between two codes."""
    codes: Frames = np.searchsorted(_borders(), light.ravel(), side="right").astype(np.uint8).reshape(light.shape)
    return codes


@cache
def _borders() -> Light:
    return (((np.arange(255) + 0.5) / 255) ** _GAMMA).astype(np.float32)
