"""Harmed files: few of them at each run of the tests, and that the script finds what it is there to find."""

import random
import subprocess
import sys
from pathlib import Path
from time import sleep

import fuzz
import pytest


def test_no_harmed_file_brings_a_reader_down(tmp_path: Path) -> None:
    command = [sys.executable, fuzz.__file__, "--inputs", "2200", "--seed", "1", "--keep", tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    rows = [line.split("|") for line in ended.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 11 and all(0 < int(row[3]) < int(row[2]) == 201 for row in rows)
    assert all(reached > 0.3 * lines for reached, lines in (map(int, row[4].split(" of ")) for row in rows))


@pytest.mark.parametrize("error", [IndexError("x"), AssertionError("x"), MemoryError("x"), ValueError("two\nlines")])
def test_what_brings_a_reader_down_is_found_and_kept(error: Exception) -> None:
    def read(content: bytes) -> None:
        if content != b"hello":
            raise error

    refused, failed, what = fuzz.fuzz(fuzz.Reader(read, (b"hello",), ""), 100, random.Random(0))
    assert failed is not None and failed != b"hello" and ("x" in what or "several lines" in what)
    assert refused == (1 if isinstance(error, ValueError) else 0)


def test_a_reader_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz.late)
    reader = fuzz.Reader(lambda content: sleep(60) if content != b"hello" else None, (b"hello",), "")
    _, failed, what = fuzz.fuzz(reader, 100, random.Random(0))
    assert failed is not None and "not done after 1 s" in what
