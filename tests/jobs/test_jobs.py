"""Jobs that are really submitted, to the cluster of three nodes that cluster/local.sh starts, with its token on."""

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from socket import gethostname, socket
from typing import NamedTuple

import psutil
import pytest

from mars_dist.storage import Folder

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
MARS = str(Path(sys.executable).with_name("mars"))
# The settings of `debug` for notes of an eighth of a second.
SHORT = {"num-samples": 2000, "n-fft": 128, "cmx": "4x4"}
SHAPE = {"patch": "4x1", "scales": "1x1 4x4"}


class Cluster(NamedTuple):
    address: str
    environment: dict[str, str]

    def start(self, *words: object, **changed: str) -> "subprocess.Popen[str]":
        """`mars ...` in the project's folder; both its streams are one."""
        return subprocess.Popen(
            [MARS, *map(str, words)],
            cwd=ROOT,
            env=self.environment | changed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def mars(self, *words: object, **changed: str) -> tuple[int, list[str]]:
        process = self.start(*words, **changed)
        return process.wait(), process.communicate()[0].splitlines()

    def submit(self, *words: object) -> tuple[int, list[str]]:
        return self.mars("submit", *words)


def free_ports() -> list[int]:
    """The first ones of two pairs in a row, below those that the system hands out: Ray's own processes take such."""
    return list(islice(filter(is_free, filter(lambda port: is_free(port + 1), range(21_000, 32_000, 2))), 2))


def is_free(port: int) -> bool:
    with socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0 and probe.connect_ex((gethostname(), port)) != 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Started by the script that users have, which has to end all that it started."""
    port, dashboard = free_ports()
    environment = os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment.pop("RAY_ADDRESS", None)
    ports = {"PORT": str(port), "DASHBOARD_PORT": str(dashboard)}
    script = [ROOT / "cluster" / "local.sh", "3", "2"]
    with subprocess.Popen(script, env=environment | ports, stdout=subprocess.PIPE, text=True) as local:
        assert local.stdout is not None
        address = f"http://127.0.0.1:{dashboard}"
        said = f"3 nodes of 2 CPUs: mars submit --address {address} JOB ...\n"
        try:
            assert local.stdout.readline() == said
            yield Cluster(address, environment | {"RAY_API_SERVER_ADDRESS": address})
            nodes = psutil.Process(local.pid).children(recursive=True)
            assert sum(process.name() == "raylet" for process in nodes) == 3
        finally:
            local.send_signal(signal.SIGTERM)
        assert local.wait(60) == 130
    _, alive = psutil.wait_procs(nodes, timeout=10)
    assert not alive


def options(**groups: dict[str, object]) -> list[object]:
    """--group.name value ..."""
    return [
        word
        for group, settings in groups.items()
        for name, value in settings.items()
        for word in (f"--{group}.{name}", *str(value).split())
    ]


def test_a_pipeline_in_a_bucket_ends_with_a_report_and_has_nothing_to_do_again(
    cluster: Cluster, short_notes: Path, bucket: str
) -> None:
    home = Folder.open(bucket)
    stages = options(**{"tokenizer.spectrogram": SHORT, "tokenizer.tokenizer": SHAPE, "classifier": {"frames": 4}})
    brief = ("--classifier-train.steps", 4, "--classifier-train.batch-size", 4, "--notes", 3, "--shown", 1)
    work = ("pipeline", "debug", "--source", short_notes, "--out", bucket, "--workers", 2, *stages, *brief)
    code, lines = cluster.submit(*work)
    assert code == 0, lines
    assert re.fullmatch(r"upload: \d+ files, \d\.\d MiB", lines[0])
    told = [line.removeprefix("== ") for line in lines if line.startswith("== ")]
    assert told == ["preprocess", "train_tokenizer", "encode", "train_autoregressor", "train_classifier", "evaluate"]
    assert b"<audio" in home.read("report.html")
    table = home.read("table.txt").decode()
    assert table.strip() in "\n".join(lines)
    assert lines[-1].endswith(": succeeded")

    code, again = cluster.submit(*work)
    assert code == 0 and table.strip() in "\n".join(again)
    assert sum(line.endswith("nothing to do") for line in again) == 6


def test_a_failed_job_ends_with_its_own_exit_code(cluster: Cluster, tmp_path: Path) -> None:
    words = ("train-tokenizer", "debug", "--data", tmp_path / "none", "--out", tmp_path / "run")
    code, lines = cluster.submit(*words)
    assert code == 2
    [mistake] = [line for line in lines if line.startswith("mars: ")]
    assert str(tmp_path / "none") in mistake
    assert re.fullmatch(r"raysubmit_\w+: failed with exit code 2", lines[-1])
    assert not any("Traceback" in line for line in lines)

    # The line that was printed is the one that Ray takes, and does the same.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    line = ["env", *shlex.split(lines[1])]
    ended = subprocess.run(line, cwd=ROOT, env=cluster.environment | {"PATH": path}, capture_output=True, text=True)
    assert ended.returncode == 1 and mistake in ended.stdout

    job = lines[-1].split(":")[0]
    assert cluster.mars("jobs", "logs", job)[0] == 2
    code, listed = cluster.mars("jobs", "list")
    assert code == 0
    [mine] = [line for line in listed if line.startswith(job)]
    assert mine.split()[1] == "FAILED" and mine.endswith(
        f"train-tokenizer debug {shlex.join(map(str, words[2:]))}"[16:]
    )
    assert cluster.mars("jobs", "stop", job) == (0, [f"{job}: has ended before"])


def test_folders_of_a_jobs_own_are_refused(cluster: Cluster) -> None:
    code, lines = cluster.submit("train-tokenizer", "debug", "--data", "/data")
    assert code == 2
    assert "mars: runs/tokenizer: a job's own folder is lost with it: give an absolute path that all nodes share" in (
        line.partition(", or")[0] for line in lines
    )


def test_ctrl_c_twice_stops_a_training_which_saves_its_work(
    cluster: Cluster, short_pictures: str, tmp_path: Path
) -> None:
    """Two workers of Ray Train, somewhere on three nodes."""
    shape = options(spectrogram=SHORT, tokenizer=SHAPE)
    steps = ("--train.steps", 100_000, "--train.checkpoint-every", 10, "--train.log-every", 50, "--workers", 2)
    work = ("train-tokenizer", "debug", "--data", short_pictures, "--out", tmp_path / "run", *steps, *shape)
    process = cluster.start("submit", *work)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("tokenizer") and len(lines) > 5:
            break
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C again stops it" in line:
            process.send_signal(signal.SIGINT)
            break
    lines += process.communicate(timeout=120)[0].splitlines(keepends=True)
    text = "".join(lines)
    assert process.returncode == 128 + signal.SIGTERM, text
    [step] = re.findall(r"run: stopped by SIGTERM, saved at step (\d+)", text)
    position = tmp_path / "run" / "training" / f"step_{int(step):08d}" / "position.json"
    assert json.loads(position.read_text())["step"] == int(step)
    assert text.rstrip().endswith(": stopped")


def test_a_missing_or_wrong_token_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.address
    assert cluster.mars("jobs", "list", RAY_AUTH_TOKEN="wrong") == (
        2,
        [
            f"mars: {address}: the cluster refuses the token that was sent: put the cluster's into ~/.ray/auth_token, "
            "or name its file in RAY_AUTH_TOKEN_PATH"
        ],
    )
    without = Cluster(address, {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_TOKEN"})
    code, [line] = without.mars("jobs", "list", HOME=str(tmp_path))
    assert code == 2 and line.startswith(f"mars: {address}: the cluster wants a token, and none was found: put")


def test_no_such_job_is_one_line(cluster: Cluster) -> None:
    code, [line] = cluster.mars("jobs", "logs", "nobody")
    assert (code, line) == (2, f"mars: nobody: {cluster.address} has no such job: mars jobs list names them")
