"""cluster/slurm.sh as it is, where SLURM, Ray and mars are small programs that tell what they were asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"
WAITS = (
    'trap "exit 143" TERM; [ "$CODE" = waits ] && echo mars >> "$TOLD" && for _ in $(seq 300); do sleep 0.05; done\n'
)
NODES_ARE_THERE = 'until [ "$(grep -c srun "$TOLD")" = 2 ]; do sleep 0.02; done 2> /dev/null'
PROGRAMS = {
    "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "scontrol $*" >> "$TOLD"; fi',
    "srun": 'echo "srun $*" >> "$TOLD"; shift 6; exec "$@"',
    "ray": "exec sleep 60",
    "python": f'[ "$1" = -c ] && exec {sys.executable} "$@"; {NODES_ARE_THERE}',
    "mars": WAITS + 'echo "mars $* at $RAY_ADDRESS with ${#RAY_AUTH_TOKEN}" >> "$TOLD"; exit "$CODE"',
}


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], "subprocess.Popen[str]"]:
    """Run the script as SLURM does, with a command that ends with that code, or waits for a signal."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    job = {"SUBMIT_DIR": tmp_path, "JOB_ID": 77, "JOB_NODELIST": "n[1-2]", "CPUS_PER_TASK": 16, "GPUS_ON_NODE": 4}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in job.items()}
    environment["TOLD"] = str(tmp_path / "told")

    def run(code: str) -> "subprocess.Popen[str]":
        command = [SCRIPT, "pipeline", "small", "--out", "a b"]
        return subprocess.Popen(command, env=environment | {"CODE": code}, stderr=subprocess.PIPE, text=True)

    return run


@pytest.mark.parametrize("code", [0, 2, 143])
def test_nodes_come_before_the_command_and_go_after_it(
    start: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path, code: int
) -> None:
    process = start(str(code))
    said = process.communicate(timeout=30)[1]
    assert process.returncode == code, said
    lines = (tmp_path / "told").read_text().splitlines()
    started, node = "ray start --block --num-cpus 16 --num-gpus 4", "srun --nodes 1 --ntasks 1 --nodelist"
    assert sorted(lines[:2]) == [
        f"{node} n1 {started} --head --port 20077 --include-dashboard false",
        f"{node} n2 {started} --address n1:20077",
    ]
    assert lines[2] == "mars pipeline small --out a b at n1:20077 with 64"
    assert lines[3:] == (["scontrol requeue 77"] if code == 143 else [])


def test_slurms_signal_before_the_end_reaches_the_command(
    start: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process, told = start("waits"), tmp_path / "told"
    while not told.exists() or "mars" not in told.read_text().splitlines():
        assert process.poll() is None
        sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143, said
    assert told.read_text().splitlines()[-1] == "scontrol requeue 77"
