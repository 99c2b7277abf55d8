"""cluster/slurm.sh as it is, where SLURM, Ray and mars are small programs that tell what they were asked for."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"
MARS = """
import os, signal, sys, time
def tell(line):
    with open(os.environ["TOLD"], "a") as told:
        print(line, file=told)
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    tell("saves")
    time.sleep(float(os.environ["SAVES"]))
    tell("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
if os.environ["CODE"] == "waits":
    tell("mars")
    for _ in range(300):
        time.sleep(0.05)
tell(f"mars {' '.join(sys.argv[1:])} at {os.environ['RAY_ADDRESS']} with {len(os.environ['RAY_AUTH_TOKEN'])}")
sys.exit(int(os.environ["CODE"]))
"""
NODES_ARE_THERE = 'until [ "$(grep -c srun "$TOLD")" = 2 ]; do sleep 0.02; done 2> /dev/null'
PROGRAMS = {
    "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "scontrol $*" >> "$TOLD"; fi',
    "srun": 'echo "srun $*" >> "$TOLD"; shift 6; exec "$@"',
    "ray": "exec sleep 60",
    "python": f'[ "$1" = -c ] && exec {sys.executable} "$@"; {NODES_ARE_THERE}',
    "mars": f"exec {sys.executable} -IS - \"$@\" << 'PYTHON'{MARS}PYTHON",
}
Process = subprocess.Popen[str]


def scancel(script: int, number: int) -> None:
    """All processes of the job are told, the script last."""
    os.kill(script, signal.SIGSTOP)
    os.killpg(script, number)
    sleep(0.1)
    os.kill(script, signal.SIGCONT)


# --signal=B: and scancel --batch tell the script alone.
BEFORE_THE_END = re.findall(r"^#SBATCH --signal=B:(\w+)@300$", SCRIPT.read_text(), re.MULTILINE)[0], os.kill
USERS_STOP = "USR2", os.kill
CANCELLED = "TERM", scancel


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Run the script as SLURM does, with a command that ends with that code, or waits for a signal and then saves."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    job = {"SUBMIT_DIR": tmp_path, "JOB_ID": 77, "JOB_NODELIST": "n[1-2]", "CPUS_PER_TASK": 16, "GPUS_ON_NODE": 4}
    environment = os.environ | {f"SLURM_{name}": str(value) for name, value in job.items()}
    environment["TOLD"] = str(tmp_path / "told")

    with ExitStack() as started:

        def run(code: str, saves: float = 0.0) -> Process:
            command, own = [SCRIPT, "pipeline", "small", "--out", "a b"], {"CODE": code, "SAVES": str(saves)}
            process = subprocess.Popen(
                command, env=environment | own, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
            started.enter_context(process)
            started.callback(ended, process)
            return process

        yield run


def ended(process: Process) -> None:
    """Where a test failed before the script ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 2, 143])
def test_nodes_come_before_the_command_and_go_after_it(
    start: Callable[..., Process], tmp_path: Path, code: int
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
    assert lines[2:] == ["mars pipeline small --out a b at n1:20077 with 64"]


@pytest.mark.parametrize(
    ("sent", "saves", "told"),
    [
        ([BEFORE_THE_END], 0.3, ["saves", "saved", "scontrol requeue 77"]),
        ([USERS_STOP], 0.3, ["saves", "saved"]),
        ([CANCELLED], 0.3, ["saves", "saved"]),
        ([BEFORE_THE_END, USERS_STOP], 0.3, ["saves", "saved"]),
        ([USERS_STOP, BEFORE_THE_END], 0.3, ["saves", "saved"]),
        ([BEFORE_THE_END, CANCELLED], 20.0, ["saves"]),
    ],
    ids=[
        "the end nears",
        "stopped",
        "scancel",
        "the end, then stopped",
        "stopped, then the end",
        "the end, then scancel",
    ],
)
def test_a_checkpoint_is_saved_and_only_what_ran_out_of_time_is_queued_again(
    start: Callable[..., Process],
    tmp_path: Path,
    sent: list[tuple[str, Callable[[int, int], None]]],
    saves: float,
    told: list[str],
) -> None:
    process, file = start("waits", saves), tmp_path / "told"
    for (name, send), awaited in zip(sent, ["mars", "saves"], strict=False):
        while not file.exists() or awaited not in file.read_text().splitlines():
            assert process.poll() is None
            sleep(0.02)
        send(process.pid, signal.Signals[f"SIG{name}"])
    said = process.communicate(timeout=15)[1]
    assert process.returncode == 143, said
    assert file.read_text().splitlines()[3:] == told


def test_the_log_of_before_is_kept() -> None:
    assert "\n#SBATCH --requeue\n#SBATCH --open-mode=append" in SCRIPT.read_text()
