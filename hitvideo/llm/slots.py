"""What a layout says of each input slot, as tensors: for rows in raster order, and for rows in the order of their groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from hitvideo.llm.rope import Rotation, rotation
from hitvideo.sequence.groups import NO_TARGET, START, GroupedLayout
from hitvideo.sequence.layout import NO_SLOT, SequenceLayout
from hitvideo.settings.language_model import LLMSection


class Slots(NamedTuple):
    """The layout's facts about each of the n input slots of a row. They are not buffers: a cast of the model leaves them."""

    level: torch.Tensor  # (n,) 0 for text, else 1 + level
    next_level: torch.Tensor  # (n,) the same, for the slot it predicts
    turn: Rotation  # (n, K/2) rotation at its own position
    next_turn: Rotation  # (n, K/2) rotation at the position of the slot it predicts
    ancestors: torch.Tensor  # (n, levels - 1) slots of the ancestors of the cell it predicts, NO_SLOT: it has none there


class GroupedSlots(NamedTuple):
    """The n input slots of a row in grouped order."""

    slots: Slots
    """A START slot has level and position of the cell that it predicts; what predicts nothing has its own as the next."""
    order: torch.Tensor  # (n,) slot of the raster row whose ids lie there; 0 for START
    start: torch.Tensor  # (n,) whether it is a START slot
    predicts: torch.Tensor  # (length - 1,) the slot that predicts each slot of the raster row but the first
    mask: torch.Tensor | None  # (n, n) whether a slot (rows) sees another (columns); None: the lower triangle


def raster_slots(layout: SequenceLayout, llm: LLMSection, device: torch.device) -> Slots:
    """Each slot predicts the next one: n = length - 1."""
    levels = torch.from_numpy(layout.levels).to(device) + 1
    turn = rotation(torch.from_numpy(layout.positions).to(device), llm.turned_axes, llm.rope_theta)
    own, after = Rotation(turn.cos[:-1], turn.sin[:-1]), Rotation(turn.cos[1:], turn.sin[1:])
    return Slots(levels[:-1], levels[1:], own, after, torch.from_numpy(layout.ancestors[1:]).to(device))


def grouped_slots(grouped: GroupedLayout, layout: SequenceLayout, llm: LLMSection, device: torch.device) -> GroupedSlots:
    """`grouped`: an order of the slots of `layout`."""
    order, target = torch.from_numpy(grouped.order), torch.from_numpy(grouped.target)
    levels, positions = torch.from_numpy(layout.levels) + 1, torch.from_numpy(layout.positions)
    start, nothing = order == START, target == NO_TARGET
    at, to = torch.where(start, target, order), torch.where(nothing, order, target)
    ancestors = torch.from_numpy(layout.ancestors)[to].masked_fill(nothing[:, None], NO_SLOT).to(device)
    own, after = (rotation(positions[cells].to(device), llm.turned_axes, llm.rope_theta) for cells in (at, to))
    slots = Slots(levels[at].to(device), levels[to].to(device), own, after, ancestors)
    plain = np.array_equal(grouped.mask, np.tril(np.ones_like(grouped.mask)))
    mask = None if plain else torch.from_numpy(grouped.mask).to(device)
    held, start, predicts = (each.to(device) for each in (order.clamp(min=0), start, torch.from_numpy(grouped.predicts)))
    return GroupedSlots(slots, held, start, predicts, mask)
