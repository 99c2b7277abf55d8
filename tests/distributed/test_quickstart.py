"""`mars quickstart`: stopped in the middle, finished, and run once more."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import pytest

from mars_dist import quickstart
from mars_dist.evaluation import LINES
from mars_dist.notes import NotesConfig
from mars_dist.quickstart import Quickstart

FEW = {"pitches": (60, 61), "velocities": (100,), "instruments_per_family": 2, "valid_share": 0.3}
STAGES = ("notes", "preprocess", "train_tokenizer", "encode", "train_autoregressor", "evaluate")
PRESET = """
preset = "debug"
[tokenizer.train]
steps = 60
checkpoint_every = 5
"""
SMALL = f"""
import sys
from functools import partial
from mars_dist import cli, quickstart
from mars_dist.notes import NotesConfig
quickstart.NotesConfig = partial(NotesConfig, **{FEW})
sys.argv = ["mars", "quickstart", "--out", sys.argv[1], "--preset", sys.argv[2], "--workers", "2"]
if __name__ == "__main__":
    cli.main()
"""


@pytest.fixture(autouse=True)
def few_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {name: value for name, value in FEW.items() if name != "velocities"}
    monkeypatch.setattr(quickstart, "NotesConfig", partial(NotesConfig, **options))
    monkeypatch.setattr(quickstart, "VELOCITIES", FEW["velocities"])
    monkeypatch.setattr(quickstart, "MEASURED", {"valid": 3, "test": 4})
    monkeypatch.setattr(quickstart, "SHOWN", 1)
