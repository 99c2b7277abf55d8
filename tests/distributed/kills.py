"""SIGKILL for processes of a training that runs on this machine, and what is left of them."""

from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from time import monotonic, sleep

import psutil
import ray


def processes(title: str) -> list[psutil.Process]:
    """Those below this process that Ray calls so; one that ends meanwhile, or is dead already, is none of them."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_once(is_time: Callable[[], bool], title: str) -> Thread:
    """In the background: waits until it is time, then kills the last of the processes of that title."""

    def wait_and_kill() -> None:
        while not is_time():
            sleep(0.01)
        processes(title)[-1].kill()

    thread = Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def require_all_cpus_free() -> None:
    """Soon: what a lost driver's workers had is freed by the one that follows."""
    deadline = monotonic() + 30
    while (free := ray.available_resources().get("CPU", 0)) < ray.cluster_resources()["CPU"]:
        assert monotonic() < deadline, free
        sleep(0.1)
