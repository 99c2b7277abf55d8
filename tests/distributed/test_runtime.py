"""A process that joins a cluster which was started elsewhere: that of these tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from mars_dist.addresses import IN_A_JOB

OPENED_BY_A_WORKER = """
import ray
from mars_dist.distributed.runtime import connect
from mars_dist.storage import Folder
connect()
print(ray.get(ray.remote(lambda: Folder.open("s3://bucket/run").endpoint_override).remote()))
"""


def opened_by_a_worker(**environment: str) -> str:
    """The endpoint that a worker finds for an address that it is handed as text."""
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", OPENED_BY_A_WORKER]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    ended = subprocess.run(
        command, env=environment | {"RAY_ADDRESS": address}, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def job(**variables: str) -> str:
    return json.dumps({"runtime_env": {"env_vars": {"OTHER": "1"} | variables}, "metadata": {}})


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"AWS_ENDPOINT_URL": "http://other:9000", "AWS_ENDPOINT_URL_S3": "http://store:9000"}, "store:9000"),
        ({"AWS_ENDPOINT_URL": "http://store:9000", IN_A_JOB: job()}, "store:9000"),
        (
            {"AWS_ENDPOINT_URL": "http://store:9000", IN_A_JOB: job(AWS_ENDPOINT_URL="http://store:9000")},
            "store:9000",
        ),
    ],
    ids=["on its own", "in a job", "in a job that sets it"],
)
def test_workers_find_the_store_of_the_process_that_joins(environment: dict[str, str], found: str) -> None:
    assert opened_by_a_worker(**environment) == found


@pytest.mark.parametrize("words", [("train-tokenizer", "debug", "--data", "x", "--out", "y"), ("check", "debug")])
def test_a_cluster_of_another_version_is_one_line(words: tuple[str, ...]) -> None:
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.__version__ = '9.9.9'; from mars_dist.cli import main; main({words!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("mars: ")]
    assert ended.returncode == 2 and f"{address}: cannot be joined: Version mismatch" in line
    assert "Traceback" not in ended.stderr


def started_at(home: Path, before: str = "import ray") -> str:
    """What is told by a process whose home this is, and which starts a runtime of its own."""
    code = f"{before}; from mars_dist.distributed.runtime import connect; connect(num_cpus=1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=False
    )
    return ended.stdout + ended.stderr


def test_a_runtime_of_ones_own_writes_nothing_into_ones_home(tmp_path: Path) -> None:
    """Nor needs one: in a container there may be none."""
    assert started_at(tmp_path) == "" and not list(tmp_path.iterdir())
    assert started_at(Path("/proc/nothing")) == ""


def test_a_runtime_starts_where_ray_knew_of_no_token_when_it_was_imported(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of a cluster's, which is a long word of some characters")
    assert started_at(tmp_path, "import ray; from mars_dist.distributed import jobs") == ""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("jobs.connect(f'http://127.0.0.1:{server.server_port}')", "the cluster wants a token, and none was found"),
        ("runtime.connect()", "local: cannot be joined: RAY_AUTH_TOKEN_PATH is set but file cannot be opened"),
    ],
)
def test_a_token_that_is_not_where_it_is_said_to_be_is_one_line(command: str, told: str) -> None:
    code = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from mars_dist.distributed import jobs, runtime
class WantsToken(BaseHTTPRequestHandler):
    do_GET = lambda self: self.send_error(401)
server = HTTPServer(("127.0.0.1", 0), WantsToken)
Thread(target=server.serve_forever, daemon=True).start()
try:
    {command}
except ValueError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_AUTH_TOKEN_PATH"] = "/proc/nothing"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert told in ended.stdout, ended.stderr


def test_a_runtime_of_ones_own_has_the_cpus_that_its_process_may_use() -> None:
    """As SLURM leaves them to a job that has but some of a machine."""
    code = "import os, ray; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])"
    told = "connect(); print(ray.cluster_resources()['CPU'])"
    code = f"{code}; from mars_dist.distributed.runtime import connect; {told}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == "1.0\n", ended.stderr
