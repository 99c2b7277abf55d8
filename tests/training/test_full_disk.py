"""A disk that is full when a checkpoint comes: a real one, in a mount namespace of its own."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mars_dist.training.plan import Plan

NAMESPACE = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
MOUNT = "mount -t tmpfs -o size=16m none {disk}"


def test_a_full_disk_loses_nothing_that_was_saved(
    trained_tokenizer: Plan,
    losses: Callable[[Plan], list[float]],
    final_state: Callable[[Plan], dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    mount = MOUNT.format(disk=disk)
    if subprocess.run([*NAMESPACE, mount], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    script = Path(__file__).with_name("on_a_disk.py")
    words = [sys.executable, script, json.dumps(trained_tokenizer.to_plain()), disk, copy]
    ended = subprocess.run(
        [*NAMESPACE, f"{mount} && exec {shlex.join(map(str, words))}"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    full, full_later, finished = json.loads(ended.stdout.splitlines()[-1])
    assert full.startswith(f"ValueError: {disk}/run/training: cannot be written ([Errno 28] No space left on device")
    assert full_later.startswith(f"TrainingFailed: {disk}/run: ") and "No space left on device" in full_later
    assert full_later.endswith(": what was saved is kept, and the same command goes on from there")
    assert finished == "finished" and "resumed at step 10, row 40" in ended.stderr
    run = replace(trained_tokenizer, folder=copy)
    assert losses(run) == losses(trained_tokenizer)
    found, expected = final_state(run), final_state(trained_tokenizer)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
