"""Where a run or a model is, as a command line names it and any machine finds it."""

from pathlib import Path

Address = str | Path
"""A path, or s3://bucket/path."""


def address(text: str) -> Address:
    """What a user wrote; a path from the root, since workers run in folders of their own."""
    return text if "://" in text else Path(text).absolute()
