"""A cluster's jobs, over HTTP as its dashboard serves them: submitted, listed, followed, stopped."""

import asyncio
import json
import logging
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_connection
from typing import NamedTuple
from urllib.parse import urlsplit

import ray
from aiohttp import ClientError
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.ray_constants import (
    DASHBOARD_CLIENT_MAX_SIZE,
    get_runtime_env_default_excludes,
)
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mars_dist.progress import Say

TOKEN = "~/.ray/auth_token"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""What Ray's client believes more than the address that it is given, in this order."""
ANSWER_SECONDS = 10
for chatty in ("dashboard.modules", "_private.authentication", "_private.runtime_env"):
    logging.getLogger(f"ray.{chatty}").setLevel(logging.ERROR)
# Ray's own commands send a token wherever there is one; its client of jobs does once this is called.
with suppress(AuthenticationError):  # RAY_AUTH_TOKEN_PATH names no token: `connect` tells so where one is wanted
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
STOP_SECONDS = 120
"""What a job that is stopped is given to save a checkpoint; Ray's own 3 seconds are too few."""
RUNTIME_ENV = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}


def address_of(given: str | None) -> str:
    """The dashboard's address: as given, as the environment has it, or on this machine. Raises ValueError."""
    address, name = given or DEFAULT_ADDRESS, "--address"
    for variable in OVERRIDING:
        if there := os.environ.get(variable):
            if given and given != there:
                raise ValueError(f"--address: {given}, but Ray believes {variable}={there}: unset it, or name that one")
            address, name = there, variable
            break
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"{name}: {address} must be the dashboard's address, such as {DEFAULT_ADDRESS}")
    return address


def connect(address: str) -> JobSubmissionClient:
    """Raises ValueError where nobody answers, where the token is missing or wrong, and for another version of Ray."""
    url = urlsplit(address)
    try:
        create_connection((url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]), ANSWER_SECONDS).close()
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        sent = "refuses the token that was sent" if "failed" in str(error) else "wants a token, and none was found"
        raise ValueError(
            f"{address}: the cluster {sent}: put the cluster's into {TOKEN}, or name its file in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{address}: does not answer as Ray's dashboard does ({error}): is the cluster up, and its port forwarded?"
        ) from error
    require_same_ray(address, str(client._server_ray_version))
    return client


def require_same_ray(address: str, there: str) -> None:
    here = ray.__version__
    if there.split(".")[:2] != here.split(".")[:2]:
        raise ValueError(f"{address}: the cluster runs Ray {there}, this project {here}: use the same on both sides")


class Upload(NamedTuple):
    """What a job takes along."""

    num_files: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.num_files} files, {self.num_bytes / 2**20:.1f} MiB"


def upload_of(folder: Path) -> Upload:
    """The files that Ray would upload: those that neither it nor any .rayignore or .gitignore leaves out.

    Raises ValueError where they are more than the cluster takes.
    """
    sizes = Counter[Path]()

    def add(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    left_out = _get_excludes(folder, get_runtime_env_default_excludes())
    _dir_travel(folder, [left_out], add, include_gitignore=True)
    upload = Upload(len(sizes), sizes.total())
    if upload.num_bytes > DASHBOARD_CLIENT_MAX_SIZE:
        largest, num_bytes = by_entry(folder, sizes).most_common(1)[0]
        raise ValueError(
            f"{folder}: {upload} would be uploaded, and a cluster takes {DASHBOARD_CLIENT_MAX_SIZE / 2**20:.0f} MiB: "
            f"name what it does not need in .rayignore, such as {largest} ({num_bytes / 2**20:.1f} MiB)"
        )
    return upload


def by_entry(folder: Path, sizes: Counter[Path]) -> Counter[str]:
    """Bytes below each name in the folder."""
    entries = Counter[str]()
    for path, size in sizes.items():
        entries[path.relative_to(folder).parts[0]] += size
    return entries


def as_ray_command(address: str, words: Sequence[str]) -> str:
    """What a user would type to submit the same."""
    mode = ["RAY_AUTH_MODE=token"] if os.environ.get("RAY_AUTH_MODE") == "token" else []
    options = ["--address", address, "--working-dir", ".", "--runtime-env-json", json.dumps(RUNTIME_ENV)]
    return shlex.join([*mode, "ray", "job", "submit", *options, "--", *words])


@contextmanager
def asked(client: JobSubmissionClient) -> Iterator[None]:
    """Raises ValueError where the dashboard refuses: Ray's client tells all that it answers in one kind of error."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"{client.get_address()}: refuses: {' '.join(str(error).split()):.500}") from error


def submit(client: JobSubmissionClient, words: Sequence[str]) -> str:
    """Upload this process's folder and run the command there. Returns the job's id. Raises ValueError as `asked`."""
    with asked(client):
        return client.submit_job(entrypoint=shlex.join(words), runtime_env={"working_dir": ".", **RUNTIME_ENV})


def follow(client: JobSubmissionClient, job: str, say: Say, stops: bool = True) -> int:
    """Print the job's log until it ends. Ctrl-C twice `stops` it, if it may. Returns its exit code.

    Raises ValueError where there is no such job, or the cluster is lost.
    """
    info_of(client, job)
    pressed = 0

    def ctrl_c() -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            say(f"{job} goes on, also without this terminal: Ctrl-C again stops it, mars jobs logs {job} follows it")
        else:
            say(f"{job}: told to stop, it has {STOP_SECONDS} s to save its work")
            client.stop_job(job)

    try:
        asyncio.run(print_log(client, job, ctrl_c if stops else None))
        info = info_of(client, job)
        lost = not info.status.is_terminal()
    except (ClientError, OSError, RuntimeError):
        lost = True
    if lost:
        raise ValueError(
            f"{client.get_address()}: was lost; if it goes on, so does the job: mars jobs logs {job} follows it"
        )
    code = exit_code(info)
    say(f"{job}: {told(info)}")
    return code


async def print_log(client: JobSubmissionClient, job: str, ctrl_c: Callable[[], None] | None) -> None:
    if ctrl_c:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ctrl_c)
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


def info_of(client: JobSubmissionClient, job: str) -> JobDetails:
    """Raises ValueError where there is no such job."""
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        raise ValueError(f"{job}: {client.get_address()} has no such job: mars jobs list names them") from error


def exit_code(info: JobDetails) -> int:
    """The entrypoint's own, as a shell gives it; that of SIGTERM for a job that was stopped."""
    if info.status == JobStatus.STOPPED:
        return 128 + signal.SIGTERM
    if info.driver_exit_code is None:  # it never began, or its node was lost
        return 1
    return info.driver_exit_code if info.driver_exit_code >= 0 else 128 - info.driver_exit_code


def told(info: JobDetails) -> str:
    """How the job ended, in a line."""
    if info.status != JobStatus.FAILED:
        return info.status.lower()
    if info.driver_exit_code is None:
        return f"failed: {' '.join((info.message or '').split())}"
    return f"failed with exit code {exit_code(info)}"


def stop(client: JobSubmissionClient, job: str, say: Say) -> None:
    """Raises ValueError where there is no such job."""
    info_of(client, job)
    with asked(client):
        running = client.stop_job(job)
    say(f"{job}: {f'told to stop, it has {STOP_SECONDS} s to save its work' if running else 'has ended before'}")


def all_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """Those that were submitted, oldest first. Raises ValueError where the cluster does not tell."""
    with asked(client):
        submitted = [info for info in client.list_jobs() if info.submission_id]
    return sorted(submitted, key=lambda info: info.start_time or 0)
