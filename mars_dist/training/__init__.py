"""The training loop and its two stages: rank-aware, without Ray."""
