"""One writer at a time: real processes that hold a folder, die, hang or come back."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from time import CLOCK_BOOTTIME, clock_gettime, monotonic, sleep

import pytest

from mars_dist import lease
from mars_dist.lease import LEASE, Holder, sole_writer
from mars_dist.storage import Folder

HOLD = """
import sys, time
from mars_dist import lease
from mars_dist.storage import Folder
lease.RENEWED_EVERY = 0.1
with lease.sole_writer(Folder.open(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(lease, "EXPIRES_AFTER", 1.0)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "folder") if request.param == "local" else request.getfixturevalue("bucket")


def test_a_folder_that_cannot_be_made_is_told(place: str, tmp_path: Path) -> None:
    """Neither is a rival's lease, which would be waited for without an end."""
    nowhere = place.replace("s3://bucket", "s3://another")
    if nowhere == place:
        Path(place).symlink_to(tmp_path / "unmounted")
    with pytest.raises(OSError, match=r"NoSuchBucket|File exists"):
        lease.acquire(Folder.open(nowhere), print)


@pytest.fixture
def other(place: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def elsewhere(place: str) -> None:
    """Make the lease say that it was taken on another machine."""
    folder = Folder.open(place)
    while True:
        found = folder.read(LEASE)
        if folder.swap(LEASE, found, json.dumps(json.loads(found) | {"machine": "far away"}).encode()):
            return


def test_it_is_there_while_it_is_held_and_gone_after(place: str) -> None:
    folder = Folder.open(place)
    with sole_writer(folder, print) as require_held:
        first = json.loads(folder.read(LEASE))
        sleep(0.5)
        assert json.loads(folder.read(LEASE))["renewed"] > first["renewed"]
        require_held()
    assert folder.list() == set()
    with pytest.raises(RuntimeError), sole_writer(folder, print):
        raise RuntimeError
    assert folder.list() == set()


def test_a_second_run_is_refused_at_once(place: str, other: subprocess.Popen[str]) -> None:
    start = monotonic()
    with (
        pytest.raises(ValueError, match=rf"another run writes here \(process {other.pid} on .*\): wait for it, or"),
        sole_writer(Folder.open(place), print),
    ):
        pass
    assert monotonic() - start < lease.EXPIRES_AFTER
    assert other.poll() is None


def test_a_lease_that_is_given_back_while_it_is_looked_at_is_taken(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.open(place)
    assert folder.swap(LEASE, None, replace(Holder.here(), machine="far away").to_bytes())
    read = type(folder).read

    def read_too_late(folder: Folder, file: str) -> bytes:
        if file in folder.list():
            folder.delete(file)
        return read(folder, file)

    monkeypatch.setattr(type(folder), "read", read_too_late)
    assert lease.acquire(folder, print).pid == os.getpid()
    assert folder.list() == {LEASE}


def test_a_process_is_known_by_a_clock_that_nobody_sets() -> None:
    """And it may call itself what it likes."""
    rename = "open('/proc/self/comm', 'w').write(') S 1 ('); "
    tell = "from mars_dist.lease import Holder; print(Holder.here().to_bytes().decode())"
    before = clock_gettime(CLOCK_BOOTTIME)
    told = subprocess.run([sys.executable, "-c", rename + tell], stdout=subprocess.PIPE, check=True).stdout
    after, tick = clock_gettime(CLOCK_BOOTTIME), 1 / os.sysconf("SC_CLK_TCK")
    assert before - tick <= json.loads(told)["ticks"] * tick <= after


def test_a_killed_run_blocks_nobody(place: str, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    folder = Folder.open(place)
    assert folder.list() == {LEASE}
    with sole_writer(folder, print):
        assert json.loads(folder.read(LEASE))["pid"] == os.getpid()


def test_of_a_run_elsewhere_it_is_seen_whether_it_lives(place: str) -> None:
    """Its lease is renewed, or it is not."""
    folder, said = Folder.open(place), list[str]()
    far = replace(Holder.here(), machine="far away")
    assert folder.swap(LEASE, None, far.to_bytes())
    with sole_writer(folder, said.append):
        assert json.loads(folder.read(LEASE))["pid"] == os.getpid()
    [line] = said
    assert "far" in line and "looking for 1 s if it lives" in line


def test_a_run_elsewhere_that_renews_is_left_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.open(place)
    monkeypatch.setattr(lease, "machine", lambda: "far away")
    with sole_writer(folder, print):
        monkeypatch.setattr(lease, "machine", lambda: "here")
        with pytest.raises(ValueError, match=r"another run writes here \(process \d+ on far"):
            lease.acquire(folder, print)


@pytest.mark.parametrize("start", [{"born": 1.5}, {"ticks": None}], ids=["the version before", "without /proc"])
def test_whose_process_cannot_be_known_is_left_alone_while_it_renews(place: str, start: dict[str, object]) -> None:
    folder, ended = Folder.open(place), Event()
    told = json.loads(Holder.here().to_bytes())
    del told["ticks"]
    told |= start

    def renew() -> None:
        while not ended.wait(0.1):
            told["renewed"] += 1
            folder.write(LEASE, json.dumps(told).encode())

    folder.write(LEASE, json.dumps(told).encode())
    renewer = Thread(target=renew)
    renewer.start()
    try:
        with pytest.raises(ValueError, match=r"another run writes here \((process|of another version).*wait for"):
            lease.acquire(folder, print)
    finally:
        ended.set()
        renewer.join()
    assert lease.acquire(folder, print).id != told["id"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"id": 3}'])
def test_a_damaged_lease_expires(place: str, text: bytes) -> None:
    folder = Folder.open(place)
    folder.write(LEASE, text)
    with sole_writer(folder, print):
        pass
    assert folder.list() == set()


def test_who_has_lost_it_is_told(place: str) -> None:
    """As after a sleep of the machine, during which another run took it."""
    folder = Folder.open(place)
    with sole_writer(folder, print) as require_held:
        elsewhere(place)
        sleep(0.5)
        with pytest.raises(ValueError, match="another run has taken it over"):
            require_held()
    assert folder.list() == {LEASE}, "it is the other's now"
