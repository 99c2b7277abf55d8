"""A process that joins a cluster which was started elsewhere: that of these tests."""

import json
import os
import subprocess
import sys

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
