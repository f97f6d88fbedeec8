"""`python -m pretrain`: see pretrain/language_model.py."""

from __future__ import annotations

from hitvideo.runs.program import guarded
from pretrain.language_model import main

if __name__ == "__main__":
    guarded(main)
