"""Where a run or a model is, as a command line names it and any machine finds it."""

import os
from pathlib import Path

Address = str | Path
"""A path, or s3://bucket/path."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for what it runs as a job."""


def address(text: str) -> Address:
    """What a user wrote; a path from the root, since workers run in folders of their own.

    Raises ValueError for a relative one in a Ray job, whose own folder goes with it.
    """
    if "://" in text:
        return text
    if IN_A_JOB in os.environ and not Path(text).is_absolute():
        raise ValueError(
            f"{text}: a job's own folder is lost with it: give an absolute path that all nodes share, or s3://"
        )
    return Path(text).absolute()
