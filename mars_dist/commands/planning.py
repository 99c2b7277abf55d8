"""Commands for what a training will take, and for jobs on a cluster."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import Inline, parse, preset_first
from mars_dist.presets import Preset


@dataclass(frozen=True)
class ListPresets:
    preset: Positional[str | None] = None
    """One alone: a name or a .toml. Default: all that there are."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the page docs/presets.md."""


def presets(arguments: Sequence[str]) -> None:
    """Show what each preset is, and what it costs."""
    from mars_dist.presets import PRESETS, load

    command = parse(ListPresets, arguments, "presets")
    shown = {Path(command.preset).stem: load(command.preset)} if command.preset else PRESETS
    from mars_dist.preset_table import as_markdown, as_text

    print(as_markdown(shown) if command.markdown else as_text(shown))


@dataclass(frozen=True)
class RunCheck:
    config: Annotated[Preset, Inline]
    workers: int | None = None
    """As training takes it. Default: all GPUs that there are, or else 2 processes."""
    address: str | None = None
    """host:port of a Ray cluster's head, to look at it. Default: RAY_ADDRESS, as jobs have it; else this machine."""
    device: str | None = None
    """What a worker will compute on, such as h100, where it is not at hand. Default: what is there."""
    utilisation: float | None = None
    """Of a GPU's peak. Default: 0.3, an assumption; the first lines of a run tell what is reached."""
    price: float | None = None
    """Of a worker, an hour."""
    notes: int | None = None
    """In the training split. Default: NSynth's 289,205."""
    data: str | None = None
    """Folder that is to be read, local or s3://."""
    out: str | None = None
    """Folder that is to be written, local or s3://."""


def check(arguments: Sequence[str]) -> None:
    """Tell whether a training will fit, how long it will take, and what it will cost."""
    preset, rest = preset_first(arguments, "check")
    command = parse(RunCheck, rest, "check PRESET", RunCheck(preset))
    from mars_dist.check.steps import Check
    from mars_dist.check.steps import check as run

    given = {name: getattr(command, name) for name in ("workers", "address", "device", "utilisation", "price", "notes")}
    given |= {name: str(address(folder)) for name in ("data", "out") if (folder := getattr(command, name))}
    run(Check(command.config, **{name: value for name, value in given.items() if value is not None}), print)


def submit(arguments: Sequence[str]) -> None:
    """Run a command as a job on a cluster, and follow it."""
    from mars_dist.submission import submit as run

    sys.exit(run(arguments))


def jobs(arguments: Sequence[str]) -> None:
    """List a cluster's jobs, follow one, or stop it."""
    from mars_dist.submission import jobs as run

    sys.exit(run(arguments))
