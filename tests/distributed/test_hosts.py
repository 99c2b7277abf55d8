"""Trainings on several hosts, network namespaces of this machine: one is cut off and a spare one joins; a job."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from mars_dist.fetched import on_disk
from mars_dist.model import load_tokenizer
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from .hosts import OUTSIDE, Host, hosts
from .test_pipeline import SHORT

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
"""A host that is silent for two seconds is taken for lost; Ray's default is 15."""
PLACE = {"GLOO_SOCKET_IFNAME": "eth0", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
"""What every process of a host has: its interface, and this Python before all others."""
FIT = """
import json, sys
from mars_dist.launch import fit
from mars_dist.progress import say
from mars_dist.training.plan import Plan
fit(Plan.from_plain(json.loads(sys.argv[1])), 2, say)
"""


@pytest.fixture
def cluster() -> Iterator[list[Host]]:
    """The first host is the head; each of the others has a CPU for a worker."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mars-", ignore_cleanup_errors=True)))
        try:
            head, *others = stack.enter_context(hosts(4))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        start(head, folder / "head", "--head", "--port=6379", "--num-cpus=0")
        for i, host in enumerate(others):  # one after another: they share the disk, where a node notes its ports
            start(host, folder / f"host-{i}", f"--address={head.address}:6379", "--num-cpus=1")
        yield [head, *others]


def start(host: Host, folder: Path, *words: str) -> None:
    """A Ray node, with a folder of its own as on another machine: a short name, since sockets are in it."""
    log = folder.with_suffix(".txt")
    where = (f"--node-ip-address={host.address}", f"--temp-dir={folder}")
    node = host.start([*RAY, *where, *words], log, **QUICK, **PLACE)
    end = monotonic() + 120
    while "will now block" not in log.read_text():
        assert monotonic() < end and node.poll() is None, log.read_text()
        sleep(0.1)


def trains(host: Host) -> bool:
    pids = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True).stdout.split()
    return any(b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def test_a_host_that_is_cut_off_is_replaced(cluster: list[Host], undisturbed: Plan, tmp_path: Path) -> None:
    head, *others = cluster
    plan = replace(undisturbed, folder=tmp_path / "run")
    log = tmp_path / "driver.txt"
    words = [sys.executable, "-c", FIT, json.dumps(plan.to_plain())]
    driver = head.start(words, log, RAY_ADDRESS=f"{head.address}:6379", **PLACE)
    while driver.poll() is None and not (tmp_path / "run/training/step_00000010/position.json").exists():
        sleep(0.005)
    assert driver.poll() is None, log.read_text()
    cut_off = next(host for host in others if trains(host))
    cut_off.pull_cable()
    assert driver.wait(timeout=300) == 0, log.read_text()
    assert "resumed at step" in log.read_text() and "finished" in log.read_text()
    found, expected = (
        [line["loss"] for line in read_metrics(Path(one.folder), "train")] for one in (plan, undisturbed)
    )
    assert len(expected) == 60
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.fixture
def bucket_outside(cluster: list[Host]) -> Iterator[str]:
    """The address of a folder in a bucket that every host reaches."""
    server = ThreadedMotoServer(OUTSIDE, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{OUTSIDE}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/run?endpoint_override={OUTSIDE}:{port}&scheme=http"
    server.stop()


def test_a_job_of_two_hosts_keeps_its_run_in_a_bucket(
    cluster: list[Host], bucket_outside: str, short_pictures: str, tmp_path: Path
) -> None:
    head, *others = cluster
    (tmp_path / "short.toml").write_text(SHORT)
    train = ("train-tokenizer", tmp_path / "short.toml", "--data", short_pictures, "--out", bucket_outside)
    words = ("submit", "--address", "http://127.0.0.1:8265", *train, "--workers", 2, "--train.steps", 40)
    command = shlex.join(map(str, [sys.executable, "-c", "from mars_dist.cli import main; main()", *words]))
    log, used = tmp_path / "job.txt", set[str]()
    job = head.start(["sh", "-c", f"cd {ROOT} && {command}"], log, **PLACE)
    end = monotonic() + 300
    while job.poll() is None and monotonic() < end:
        used |= {host.name for host in others if trains(host)}
        sleep(0.2)
    assert job.poll() == 0, log.read_text()
    assert len(used) == 2 and log.read_text().rstrip().endswith(": succeeded")
    assert [line["step"] for line in read_metrics(on_disk(bucket_outside), "train")] == list(range(1, 41))
    tokenizer, _ = load_tokenizer(bucket_outside)
    assert tokenizer.config.codebook_size == 32
