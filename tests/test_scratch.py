"""Folders of one process each."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mars_dist.scratch import own_scratch

FILLS_ITS_OWN = """
from time import sleep
from mars_dist.scratch import own_scratch
folder = own_scratch()
(folder / "shard").write_bytes(bytes(1000))
print(folder, flush=True)
sleep(600)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What one that lives has there stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", FILLS_ITS_OWN]
    killed, alive = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        of_killed, of_alive = (Path(process.stdout.readline().strip()) for process in (killed, alive))
        killed.kill()
        killed.wait()
        assert (of_killed / "shard").exists()
        mine = own_scratch()
        assert set(mine.parent.iterdir()) == {mine, of_alive} and (of_alive / "shard").exists()
        assert mine.parent.parent == tmp_path and mine.parent.stat().st_mode & 0o777 == 0o700
    finally:
        for process in (killed, alive):
            process.kill()
            process.communicate()
