"""Experiments that users can run again; RESULTS.md holds their tables."""
