"""Files that appear whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HALF_WRITTEN = ".part"
"""How the names end of what a kill may leave behind."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is put in its place, in one go, at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{HALF_WRITTEN}")
    try:
        yield half_written
        half_written.replace(path)
    finally:
        half_written.unlink(missing_ok=True)
