"""Sweeps: many trainings of settings that differ, at equal cost, and what to conclude. Without Ray."""

from mars_dist.sweeps.sweep import Sweep, choices

__all__ = ["Sweep", "choices"]
