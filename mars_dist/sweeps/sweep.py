"""What a file in tune/ says: a space of named choices, what they are compared by, and what each may cost."""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from math import inf, prod
from pathlib import Path
from typing import Any, Literal, get_args

from mars_dist.presets import Preset, load
from mars_dist.serialize import convert, from_plain, hints_of, to_plain
from mars_dist.sweeps.metrics import Metric, known

Kind = Literal["tokenizer", "autoregressor", "both"]
Settings = Mapping[str, Any]
"""By their names in a preset's .toml, such as tokenizer.tokenizer.scales or autoregressor.optim.lr."""
Choices = Mapping[str, Settings]
"""By the names that tables and pages call them by."""
Choice = dict[str, str]
"""What a trial takes of each part of the space."""

MOST = 10_000
"""Settings in a space: all of them are looked at before the first is tried."""
DEFAULT_METRICS: dict[Kind, tuple[str, ...]] = {
    "tokenizer": ("mse_reconstruction",),
    "autoregressor": ("bits_per_second_sample", "pitch_accuracy_sample"),
    "both": ("pitch_accuracy_sample", "mse_sample"),
}
"""None favours a codebook size by what it is: bits a second are compared on the same codes alone."""


@dataclass(frozen=True)
class Sweep:
    """Raises ValueError, naming the choice, where one makes no valid settings."""

    kind: Kind
    """What a trial trains: a tokenizer, an autoregressor on codes that are there, or both in a row."""
    space: Mapping[str, Choices]
    preset: str = "tiny"
    """Name or .toml: what all that is not chosen is taken from."""
    settings: Settings = field(default_factory=dict)
    """Of every trial, in place of the preset's."""
    metrics: tuple[str, ...] = ()
    """The first one ranks; Optuna looks at all. Default: DEFAULT_METRICS."""
    flops: float | None = None
    """Training FLOPs of each trial. Default: what the preset itself takes with these settings."""
    seconds: float | None = None
    """Training time of each trial, instead of FLOPs."""
    seeds: tuple[int, ...] = (0,)
    """Each setting is trained from all of them."""
    stop_early: bool | None = None
    """Whether trials that fall behind are stopped (ASHA). Default: where the first metric is known on the way."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: {self.kind!r} is none: choose {', '.join(get_args(Kind))}")
        for name in ("preset", "metrics", "flops", "seconds", "seeds", "stop_early"):
            value = getattr(self, name)
            convert(hints_of(Sweep)[name], [*value] if isinstance(value, tuple | range) else value, None, name)
        if self.flops is not None and self.seconds is not None:
            raise ValueError("flops, seconds: both are given, trials are compared at one: leave one of them out")
        for name in ("flops", "seconds"):
            if (budget := getattr(self, name)) is not None and not 0 < budget < inf:
                raise ValueError(f"{name}: {budget} must be above 0, and finite")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} must be one or more that differ")
        if unknown := [metric for metric in self.metrics if metric not in known(self.kind)]:
            raise ValueError(
                f"metrics: no trial of kind {self.kind} reports {unknown[0]!r}: "
                f"choose from {', '.join(known(self.kind))}"
            )
        if self.stop_early and not self.ranks.on_the_way:
            raise ValueError(
                f"stop_early: {self.ranks.name} is measured at the end alone: leave it out, or rank by "
                f"{', '.join(name for name, metric in known(self.kind).items() if metric.on_the_way)}"
            )
        self.require_space()

    def require_space(self) -> None:
        empty = [name for name, choices in self.space.items() if not choices]
        if empty or not self.space:
            raise ValueError(f"space: there is nothing to choose{f' for {empty[0]}' if empty else ''}: name choices")
        for part, labels in self.space.items():
            for label in labels:
                if type(label) is not str:
                    raise ValueError(
                        f"space: {part}: {label!r} is no name: write it in quotes, or take choices(SETTING, VALUE, ...)"
                    )
                if not isinstance(labels, Mapping) or not isinstance(labels[label], Mapping):
                    raise ValueError(
                        f"space: {part}: {label!r} names no setting: write {{SETTING: VALUE}} for it, or take "
                        "choices(SETTING, VALUE, ...)"
                    )
        if (size := prod(len(choices) for choices in self.space.values())) > MOST:
            raise ValueError(f"space: {size} settings are more than {MOST}: offer fewer choices")
        for choice in self.grid():
            try:
                self.preset_of(choice)
            except ValueError as error:
                raise ValueError(f"space: {named(choice)}: {error}") from None

    @property
    def ranks(self) -> Metric:
        """The metric that ranks."""
        return known(self.kind)[self.all_metrics[0]]

    @property
    def all_metrics(self) -> tuple[str, ...]:
        return self.metrics or DEFAULT_METRICS[self.kind]

    @property
    def stops_early(self) -> bool:
        return self.ranks.on_the_way if self.stop_early is None else self.stop_early

    def grid(self) -> list[Choice]:
        """Every setting of the space, in its order."""
        return [dict(zip(self.space, names, strict=True)) for names in product(*self.space.values())]

    @cached_property
    def unvaried(self) -> Preset:
        """The preset as it is. Read once, and sent along: where a trial runs there is no such file."""
        return load(self.preset)

    @property
    def base(self) -> Preset:
        """The preset with the settings of every trial."""
        return with_settings(self.unvaried, self.settings)

    def preset_of(self, choice: Choice) -> Preset:
        """Raises ValueError where it is not valid."""
        chosen = {name: value for part, label in choice.items() for name, value in self.space[part][label].items()}
        return with_settings(self.unvaried, {**self.settings, **chosen})


def choices(setting: str, *values: Any, **named_values: Any) -> Choices:
    """Of one setting: values that go by themselves, and named ones."""
    return {words(value): {setting: value} for value in values} | {
        name.replace("_", " "): {setting: value} for name, value in named_values.items()
    }


def words(value: Any) -> str:
    """`1x1 2x1 4x2`, `0.5`."""
    plain = to_plain(value)
    return " ".join(map(str, plain)) if isinstance(plain, list) else str(plain)


def named(choice: Choice) -> str:
    """`schedule: linear, codebook: 512`."""
    return ", ".join(f"{part}: {label}" for part, label in choice.items())


def with_settings(preset: Preset, settings: Settings) -> Preset:
    """Raises ValueError for a setting that there is not, whose value is not valid, or that is a table of several."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(plain := to_plain(value), dict):  # a sweep's best.toml has a line for each
            first = next(iter(plain), "NAME")
            raise ValueError(f"{name}: is a table: name each of its settings, such as {name}.{first}")
        *path, last = name.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = plain
    return from_plain(Preset, tables, preset)


def load_sweep(file: str) -> Sweep:
    """The SWEEP of a Python file. Raises ValueError where there is none, or it is not valid."""
    if not Path(file).is_file():
        raise ValueError(f"{file}: there is no such file: name one such as tune/scale_schedules.py")
    try:
        sweep = runpy.run_path(file).get("SWEEP")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except Exception as error:
        raise ValueError(f"{file}: cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(sweep, Sweep):
        raise ValueError(f"{file}: defines no SWEEP = Sweep(...)")
    return sweep
