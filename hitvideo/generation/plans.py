"""How many slots one pass of the model draws.

    sequential   one slot a pass: the reference
    jacobi       a window of slots a pass. Each is drawn given guesses of those before it; up to the first draw that differs
                 from its guess all are final, and the draws after it are the next guesses (fixed-point iteration of Song et
                 al. 2021, with draws coupled by fixed noise). In exact arithmetic the codes are those of `sequential`; in fp32
                 they are the same unless two entries tie to the last bits.

A window costs more arithmetic and fewer passes, so it pays while a pass is bound by reading weights and starting kernels, and
no longer where it is bound by arithmetic.
"""

from __future__ import annotations

from hitvideo.generation.sampling import Plan

WINDOW = 16
CPU_ROWS = 2
"""`auto` takes jacobi on a CPU for one guided video, where it was measured to pay: with random weights of 1.6 M parameters
one core took 0.58 s with window 16, 0.81 s with 64 and 1.05 s sequentially; for 16 videos 3.7, 9.6 and 2.3 s. With
sharper random heads it lost for one video, too (1.9, 2.9 and 1.5 s). With trained weights and on a GPU it is not measured.
"""


def window(plan: Plan, rows: int, device: str) -> int:
    """Slots of a pass for `rows` rows of a batch, the guided ones counted twice; 1 is sequential."""
    if plan == "auto":
        plan = "jacobi" if device == "cpu" and rows <= CPU_ROWS else "sequential"
    return WINDOW if plan == "jacobi" else 1
