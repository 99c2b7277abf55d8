"""One writer at a time: a lease on a folder, which a run that was killed does not keep.

The holder renews it. Who finds one on the same machine looks whether its process lives; who finds one from elsewhere
watches for a while whether it is renewed. So no two clocks are ever compared.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mars_dist.progress import Say
from mars_dist.serialize import from_plain, to_plain
from mars_dist.storage import Folder

LEASE = ".lease.json"
RENEWED_EVERY, EXPIRES_AFTER = 5.0, 20.0
"""Seconds. The second is for how long a lease is watched that nobody renews."""


@dataclass(frozen=True)
class Holder:
    """Who has the folder: what the lease says."""

    id: str
    machine: str
    pid: int
    ticks: int | None
    """When its process started, as `started` tells: a later one may have the same number."""
    since: str
    renewed: int = 0
    """Times."""

    @classmethod
    def here(cls) -> "Holder":
        pid, now = os.getpid(), datetime.now(UTC).isoformat(timespec="seconds")
        return cls(uuid.uuid4().hex, machine(), pid, started(pid), now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split()[0]}, since {self.since}"

    def lives(self) -> bool | None:
        """None where it cannot be seen from here."""
        if self.machine != machine() or self.ticks is None:
            return None
        return started(self.pid) == self.ticks

    def to_bytes(self) -> bytes:
        return json.dumps(to_plain(self)).encode()


def started(pid: int) -> int | None:
    """Ticks from the machine's boot to the start of a process, which stay the same when somebody sets the clock.

    None where there is no such process, or no /proc.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(told.rpartition(b")")[2].split()[19])  # after its name, in parentheses, which may hold any others


def machine() -> str:
    """This one, and which processes can be seen: a container has numbers of its own."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    seen = f"{boot.read_text().strip()} {os.readlink(processes)}" if processes.exists() else f"{uuid.getnode():x}"
    return f"{socket.gethostname()} {seen}"


@contextmanager
def sole_writer(folder: Folder, say: Say, on_lost: Callable[[], object] = lambda: None) -> Iterator[Callable[[], None]]:
    """Hold the folder. Once it is lost, as after a sleep of the machine, `on_lost` is called, and what is given raises
    ValueError.

    Raises ValueError where another run writes to the folder, OSError where it cannot be written.
    """
    mine = acquire(folder, say)
    stopped, lost = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal mine
        while not stopped.wait(RENEWED_EVERY):
            renewed = replace(mine, renewed=mine.renewed + 1)
            try:
                # An answer of S3 that never came may have been a yes.
                if not folder.swap(LEASE, mine.to_bytes(), renewed.to_bytes()) and look(folder) != renewed.to_bytes():
                    lost.set()
                    on_lost()
                    return
            except OSError:  # the next attempt is soon
                continue
            mine = renewed

    def check() -> None:
        if lost.is_set():
            raise ValueError(f"{folder.name}: another run has taken it over: this one has stopped")

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield check
    finally:
        stopped.set()
        renewer.join()
        if not lost.is_set():
            with suppress(OSError):  # then it expires
                folder.delete(LEASE)


def acquire(folder: Folder, say: Say) -> Holder:
    """Take the lease where nobody has it, or where its holder is dead."""
    mine = Holder.here()
    while not folder.swap(LEASE, None, mine.to_bytes()):
        found = look(folder)
        if found is None:  # given back at this moment
            continue
        other = from_bytes(found)
        if other and other.id == mine.id:  # S3 answered too late
            break
        lives = other.lives() if other else None
        if lives is None:
            say(f"{folder.name}: {other or 'another run'} writes here: looking for {EXPIRES_AFTER:.0f} s if it lives")
            lives = watch(folder, found) not in (found, None)
        if lives:
            told = other or "of another version"
            raise ValueError(f"{folder.name}: another run writes here ({told}): wait for it, or choose another --out")
        if folder.swap(LEASE, found, mine.to_bytes()):
            break
    return mine


def watch(folder: Folder, found: bytes) -> bytes | None:
    """What has become of a lease: the same, where nobody renewed it."""
    end = time.monotonic() + EXPIRES_AFTER
    while (now := look(folder)) == found and time.monotonic() < end:
        time.sleep(EXPIRES_AFTER / 20)
    return now


def look(folder: Folder) -> bytes | None:
    """What the lease says; None where there is none."""
    try:
        return folder.read(LEASE)
    except FileNotFoundError:
        return None


def from_bytes(text: bytes) -> Holder | None:
    """None where it is damaged."""
    try:
        return from_plain(Holder, json.loads(text))
    except (ValueError, TypeError, AttributeError):
        return None
