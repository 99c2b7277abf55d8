"""`mars submit` and `mars jobs`: what runs on a laptop, run on a cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from mars_dist.arguments import parse
from mars_dist.progress import say

JOBS = Path("jobs")
"""In the folder that is uploaded: a script for each job."""


@dataclass(frozen=True)
class Submit:
    job: Positional[str]
    """A script of jobs/, such as train-tokenizer. The words that follow are the job's own."""
    address: str | None = None
    """The dashboard's. Default: RAY_ADDRESS, or http://127.0.0.1:8265, where `ray dashboard` and kubectl forward it."""
    no_wait: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave it to itself, rather than follow its log."""


@dataclass(frozen=True)
class Jobs:
    action: Positional[Literal["list", "logs", "stop"]]
    id: Positional[str | None] = None
    """A job's, for logs and stop."""
    address: str | None = None
    """As for mars submit."""


def submit(arguments: Sequence[str]) -> int:
    """Run `jobs/JOB.py WORDS` on a cluster, in a copy of this folder. Returns the job's own exit code."""
    scripts = {script.stem.replace("_", "-"): script for script in sorted(JOBS.glob("*.py"))}
    place = 0
    while arguments[place : place + 1] and arguments[place].startswith("-"):
        place += 2 if arguments[place] == "--address" else 1
    options, words = parse(Submit, arguments[: place + 1], "submit"), arguments[place + 1 :]
    if not scripts:
        raise ValueError(f"{JOBS.absolute()}: holds no jobs: run mars submit in the project's folder")
    if options.job not in scripts:
        raise ValueError(f"{options.job}: there is no such job: choose {', '.join(scripts)}")
    command = ["python", str(scripts[options.job]), *words]
    from mars_dist.distributed import jobs

    address = jobs.address_of(options.address)
    say(f"upload: {jobs.upload_of(Path.cwd())}")
    say(jobs.as_ray_command(address, command))
    client = jobs.connect(address)
    job = jobs.submit(client, command)
    if options.no_wait:
        say(f"{job}: mars jobs logs {job} follows it, mars jobs stop {job} stops it")
        return 0
    return jobs.follow(client, job, say)


def jobs(arguments: Sequence[str]) -> int:
    """`mars jobs list`, `logs ID` (returns the job's exit code), `stop ID`."""
    options = parse(Jobs, arguments, "jobs")
    if (options.id is None) != (options.action == "list"):
        wanted = "takes no id" if options.id else "needs a job's id: mars jobs list names them"
        raise ValueError(f"mars jobs {options.action}: {wanted}")
    from mars_dist.distributed import jobs

    client = jobs.connect(jobs.address_of(options.address))
    if options.id is None:
        for info in jobs.all_jobs(client):
            print(f"{info.submission_id:24} {info.status:9} {times(info.start_time, info.end_time)}  {info.entrypoint}")
        return 0
    if options.action == "stop":
        jobs.stop(client, options.id, say)
        return 0
    try:
        return jobs.follow(client, options.id, say, stops=False)
    except KeyboardInterrupt:
        say(f"{options.id} goes on: mars jobs stop {options.id} stops it")
        return 130


def times(start: int | None, end: int | None) -> str:
    """When a job began, and how long it took or has taken; both given in milliseconds."""
    if start is None:
        return f"{'':29}"
    began = datetime.fromtimestamp(start / 1000)
    ended = datetime.fromtimestamp(end / 1000) if end else datetime.now()
    return f"{began:%Y-%m-%d %H:%M:%S} {timedelta(seconds=round((ended - began).total_seconds()))!s:>9}"
