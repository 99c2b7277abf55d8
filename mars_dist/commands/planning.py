"""Commands for what a training will take, and for jobs on a cluster."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import parse, preset_first
from mars_dist.check.asked import Check


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


def check(arguments: Sequence[str]) -> None:
    """Tell whether a training fits, how long it takes, its cost."""
    preset, rest = preset_first(arguments, "check")
    command = parse(Check, rest, "check PRESET", Check(preset))
    from mars_dist.check.steps import check as run

    data, out = (str(address(folder)) if folder else None for folder in (command.data, command.out))
    run(replace(command, data=data, out=out), print)


def submit(arguments: Sequence[str]) -> None:
    """Run a command as a job on a cluster, and follow it."""
    from mars_dist.submission import submit as run

    sys.exit(run(arguments))


def jobs(arguments: Sequence[str]) -> None:
    """List a cluster's jobs, follow one, or stop it."""
    from mars_dist.submission import jobs as run

    sys.exit(run(arguments))
