"""Hosts as network namespaces, joined by a bridge: each has an address and a cable that can be pulled."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NETWORK = "10.201.0"
OUTSIDE = f"{NETWORK}.254"
"""This machine's own address in that network."""


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


class Host:
    """A namespace, and the processes that were started in it."""

    def __init__(self, number: int, bridge: str) -> None:
        self.name, self.cable = f"{bridge}h{number}", f"{bridge}v{number}"
        self.address = f"{NETWORK}.{number + 1}"
        self.started: list[subprocess.Popen[bytes]] = []
        ip("netns", "add", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.cable, "master", bridge, "up")
        for words in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", self.name, *words)

    def start(self, command: Sequence[object], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        words = ["ip", "netns", "exec", self.name, *map(str, command)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                words, env=os.environ | environment, start_new_session=True, stdout=file, stderr=file
            )
        self.started.append(process)
        return process

    def pull_cable(self) -> None:
        ip("link", "set", self.cable, "down")

    def remove(self) -> None:
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for pid in map(int, found.stdout.split()):
            with suppress(ProcessLookupError):  # it ended with another one
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()
        ip("link", "del", self.cable)
        ip("netns", "del", self.name)


@contextmanager
def hosts(number: int, bridge: str = "marsbr") -> Iterator[list[Host]]:
    """So many; all that runs on them ends with the block. Raises CalledProcessError where that is not allowed."""
    ip("link", "add", bridge, "type", "bridge")
    made: list[Host] = []
    try:
        ip("addr", "add", f"{OUTSIDE}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for i in range(number):
            made.append(Host(i, bridge))
        yield made
    finally:
        for host in made:
            host.remove()
        ip("link", "del", bridge)
