"""Disks that are full, or read-only: real ones, in a mount namespace of their own."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mars_dist.config import SpectrogramConfig
from mars_dist.distributed.data import preprocess
from mars_dist.serialize import to_plain

from .on_a_disk import sha256

NAMESPACE = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
MOUNT = "mount -t tmpfs -o size=2m none {disk}"


def can_mount(disk: Path) -> bool:
    return subprocess.run([*NAMESPACE, MOUNT.format(disk=disk)], capture_output=True, check=False).returncode == 0


def test_a_disk_that_is_full_or_read_only_loses_nothing(
    short_notes: Path, short: SpectrogramConfig, tmp_path: Path
) -> None:
    disk, expected = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no file system can be mounted here")
    script = Path(__file__).with_name("on_a_disk.py")
    command = shlex.join(map(str, [sys.executable, script, short_notes, disk, json.dumps(to_plain(short))]))
    ended = subprocess.run(
        [*NAMESPACE, f"{MOUNT.format(disk=disk)} && exec {command}"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    came_to = found["came to"]
    assert f"{disk}/out: cannot be written ([Errno 28]" in came_to["full"]
    assert f"{disk}/out: cannot be written ([Errno 28]" in came_to["full midway"]
    assert came_to["empty"] == came_to["read-only, finished"] == "{'train': 12, 'valid': 4, 'test': 3}"
    assert f"{disk}/other: cannot be written ([Errno 30]" in came_to["read-only"]
    preprocess(short_notes, expected, short, shard_rows=5, progress=lambda line: None)
    assert found["files"] == {f"out/{path.name}": sha256(path) for path in expected.iterdir()}
