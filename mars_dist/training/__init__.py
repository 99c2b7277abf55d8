"""The training loop and its three stages: rank-aware, without Ray."""
