"""A training on several hosts, network namespaces of this machine: the cable of one is pulled, a spare one joins."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from .hosts import Host, hosts

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
QUICK = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
"""A host that is silent for two seconds is taken for lost; Ray's default is 15."""
FIT = """
import json, sys
from mars_dist.launch import fit
from mars_dist.progress import say
from mars_dist.training.plan import Plan
fit(Plan.from_plain(json.loads(sys.argv[1])), 2, say)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Host]]:
    """The first host is the head; each of the others has a CPU for a worker."""
    try:
        with hosts(4) as made:
            head, *others = made
            words = (*RAY, "--head", "--port=6379", f"--node-ip-address={head.address}", "--num-cpus=0")
            head.start(words, tmp_path / "head.txt", **QUICK)
            wait_until_up([tmp_path / "head.txt"])
            for i, host in enumerate(others):
                join = (f"--address={head.address}:6379", f"--node-ip-address={host.address}", "--num-cpus=1")
                host.start([*RAY, *join], tmp_path / f"host-{i}.txt", **QUICK)
            wait_until_up([tmp_path / f"host-{i}.txt" for i in range(len(others))])
            yield made
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")


def wait_until_up(logs: list[Path]) -> None:
    end = monotonic() + 120
    while not all("will now block" in log.read_text() for log in logs):
        assert monotonic() < end, [log.read_text() for log in logs]
        sleep(0.1)


def trains(host: Host) -> bool:
    pids = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True).stdout.split()
    return any(b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


@pytest.mark.cluster
def test_a_host_that_is_cut_off_is_replaced(cluster: list[Host], undisturbed: Plan, tmp_path: Path) -> None:
    head, *others = cluster
    plan = replace(undisturbed, folder=tmp_path / "run")
    settings = {"RAY_ADDRESS": f"{head.address}:6379", "GLOO_SOCKET_IFNAME": "eth0"}
    log = tmp_path / "driver.txt"
    driver = head.start([sys.executable, "-c", FIT, json.dumps(plan.to_plain())], log, **settings)
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
