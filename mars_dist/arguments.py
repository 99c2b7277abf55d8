"""From the words of a command line to typed settings, and to folders: a user's mistake is a ValueError of one line."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mars_dist.addresses import address
from mars_dist.scales import Size

if TYPE_CHECKING:
    from mars_dist.presets import Preset

T = TypeVar("T")
Inline = tyro.conf.arg(name="")
"""A field whose own fields are written without its name."""


def parse(kind: type[T], arguments: Sequence[str], name: str, default: T | None = None) -> T:
    """The settings that a command line names. Raises ValueError for a mistake, in one line; --help ends the process."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def size(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type is not Size:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW",
            instance_from_str=lambda words: Size.parse(words[0]),
            is_instance=lambda value: isinstance(value, Size),
            str_from_instance=lambda value: [str(value)],
        )

    complaint = io.StringIO()
    try:
        with registry, redirect_stderr(complaint):
            return cast(T, tyro.cli(kind, args=arguments, prog=f"mars {name}", default=default))
    except SystemExit as end:
        if end.code == 0:  # --help
            raise
        _, text = complaint.getvalue().strip().split("\n", 1)  # a box: its title, and lines between rules
        raise ValueError(" ".join(word for word in text.split() if any(map(str.isalnum, word)))) from None


def preset_first(arguments: Sequence[str], command: str) -> tuple["Preset", Sequence[str]]:
    """The preset that a command begins with, and the arguments after it."""
    from mars_dist.presets import load

    if arguments and not arguments[0].startswith("-"):
        return load(arguments[0]), arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        return load("tiny"), arguments
    raise ValueError(f"mars {command}: name a preset or a .toml first, such as: mars {command} tiny ...")


def local(folder: str) -> Path:
    """Raises ValueError for s3://: sounds and drawings are made on this machine."""
    if "://" in folder:
        raise ValueError(f"{folder}: is behind an address: sounds and drawings are written on this machine")
    return Path(address(folder))


def make_folder(folder: Path) -> None:
    """Raises ValueError where it cannot be written."""
    with told(f"{folder}: cannot be made"):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raises ValueError where a disk refuses: a full one does not say what it had no room for."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{what} ({error.strerror}): choose another --out") from error


def measured(notes: int, shown: int, splits: Sequence[str] | None) -> int | dict[str, int]:
    """How many notes are measured: of each held-out split, or of those that are named.

    Raises ValueError where there is nothing to measure.
    """
    if notes < 1:
        raise ValueError(f"--notes: {notes} must be at least 1")
    if shown < 0:
        raise ValueError(f"--shown: {shown} must be at least 0")
    if splits is not None and not splits:
        raise ValueError("--splits: none is named: name one or more, such as valid test")
    return notes if splits is None else dict.fromkeys(splits, notes)
