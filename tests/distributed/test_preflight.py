"""The preflight of a real cluster: that of these tests, joined by processes that know nothing but its address."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
import ray

from mars_dist.distributed import preflight
from mars_dist.distributed.preflight import alive, nodes, on_node
from mars_dist.node import Node


def mars_check(*words: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """`mars check debug ...` in a fresh process."""
    code = f"import sys\n{before}\nsys.argv[:1] = ['mars']\nfrom mars_dist.cli import main\nmain()"
    command = [sys.executable, "-c", code, "check", "debug", *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def refused(*words: object, before: str = "") -> str:
    ended = mars_check(*words, before=before)
    assert ended.returncode == 2 and not ended.stdout, ended
    [line] = ended.stderr.splitlines()
    return line.removeprefix("mars: ")


@pytest.fixture(scope="module")
def address() -> str:
    return ray.get_runtime_context().gcs_address


def test_a_look_from_a_node(address: str) -> None:
    [node] = nodes(address)
    here = Node.here()
    assert (node.name, node.versions, node.num_cpus, node.num_gpus) == (here.name, here.versions, 4, 0)
    assert node.address == address.rpartition(":")[0] and node.interface in node.interfaces


def test_all_nodes_are_looked_at_together(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts a process and imports torch before it answers: a hundred would take minutes one after the other."""
    [node], met, on_one = alive(), Barrier(3), preflight.on_node

    def once_all_are_asked(id: str, work: Callable[[], Node]) -> Node:
        met.wait(20)
        return on_one(id, work)

    monkeypatch.setattr(preflight, "alive", lambda: [node] * 3)
    monkeypatch.setattr(preflight, "on_node", once_all_are_asked)
    assert [one.name for one in nodes(address)] == [Node.here().name] * 3


def test_what_fails_on_a_node_comes_back_as_it_is() -> None:
    id = alive()[0]["NodeID"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        on_node(id, partial(os.listdir, "/nowhere"))
    with pytest.raises(ValueError, match=f"node {id[:8]}: runs no worker of mars_dist .*: is it installed there"):
        on_node(id, partial(os._exit, 3))


def test_a_cluster_is_joined_and_looked_at(address: str, tmp_path: Path) -> None:
    ended = mars_check("--address", address, "--workers", 2, "--out", tmp_path / "out")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"4 storage   ok  --out {tmp_path}/out is written" in ended.stdout
    assert "5 cluster   ok  2 workers take a CPU each; 1 nodes have 4 CPUs and 0 GPUs" in ended.stdout
    assert "verdict: it fits" in ended.stdout
    many = mars_check("--address", address, "--workers", 4, "--device", "h100")
    assert many.returncode == 2
    assert many.stderr == (
        "mars: this will not work: 5 cluster: --workers: 4 workers need 4 GPUs, there are 0: choose at most 0\n"
    )


def test_addresses_that_are_none() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{unused.getsockname()[1]}"
        assert refused("--address", dead).startswith(f"{dead}: does not answer ([Errno 111] Connection refused)")
    assert "must be host:port of a cluster's head" in refused("--address", "cluster")
    assert "mars submit --address http://127.0.0.1:8265 check" in refused("--address", "http://127.0.0.1:8265")


@pytest.mark.cluster
def test_a_port_that_is_not_a_heads_is_told_within_two_minutes() -> None:
    """Such as the dashboard's, 8265."""
    with HTTPServer(("0.0.0.0", 0), BaseHTTPRequestHandler) as server:  # Ray asks at another of them
        Thread(target=server.serve_forever, daemon=True).start()
        ended = mars_check("--address", f"127.0.0.1:{server.server_port}", "--workers", 1)
        server.shutdown()
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].endswith("is the cluster up, and this its head?")


def test_another_version_of_ray(address: str) -> None:
    line = refused("--address", address, before="import ray; ray.__version__ = '2.1.0'")
    assert line.startswith(f"{address}: cannot be joined: Version mismatch")
    assert "2.1.0" in line and ray.__version__ in line
