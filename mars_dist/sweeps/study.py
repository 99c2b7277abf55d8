"""A sweep on some data: its trials, each with the same training FLOPs or the same time, and a folder of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf, log
from operator import itemgetter
from statistics import median
from typing import Any, Literal

from mars_dist.addresses import Address, address
from mars_dist.config import AutoregressorRunConfig, ClassifierRunConfig, SpectrogramConfig, TokenizerRunConfig
from mars_dist.costs import StageCost, autoregressor_cost, cost_of, tokenizer_cost
from mars_dist.model import read_tokenizer_run
from mars_dist.presets import Preset
from mars_dist.serialize import to_plain
from mars_dist.storage import Folder
from mars_dist.sweeps.sweep import Choice, Sweep, named
from mars_dist.training.journal import METRICS, read_metrics
from mars_dist.training.plan import Plan

REPORTS = 9
"""Validations of a trial on its way, at equal shares of its budget."""
PACE_STEPS = 12
"""Of a short training that tells how many steps a budget of seconds is."""
TRIALS, PACE, CODES = "trials", "pace", "codes"


Run = TokenizerRunConfig | AutoregressorRunConfig


@dataclass(frozen=True)
class Trial:
    """A setting, trained from a seed."""

    place: int
    """Of the setting, in the order in which settings are tried."""
    choice: Choice
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.place:03d}-seed-{self.seed}"


@dataclass(frozen=True)
class Stage:
    """A training within a trial."""

    plan: Plan
    flops_per_step: float
    share: float
    """Of the trial's budget."""
    figures: dict[str, tuple[str, float]]
    """Metric -> the figure of validation that stands for it, and what it is to be multiplied with."""

    @property
    def flops(self) -> float:
        return self.flops_per_step * self.plan.config.train.steps

    @property
    def born(self) -> int:
        """The first step after which figures mean what they will mean at the end: there is a codebook."""
        return self.plan.config.codebook.start_step if isinstance(self.plan.config, TokenizerRunConfig) else 0

    def lasting(self, steps: int) -> "Stage":
        return replace(self, plan=replace(self.plan, config=lasting(self.config, steps, self.config.train.seed)))

    def measured(self, after: int) -> Iterator[dict[str, float]]:
        """What its run has noted beyond a step: `step`, `seconds` since that one, and what the best weights have."""
        if METRICS not in Folder.open(self.plan.folder).list():
            return
        lines = [line for kind in ("train", "valid") for line in read_metrics(self.plan.folder, kind)]
        figures = [figure for figure, _ in self.figures.values()]
        best, least, seconds, last, judged_by = dict[str, float](), inf, 0.0, after, self.config.judged_by
        for line in sorted(lines, key=itemgetter("step")):
            step = int(line["step"])
            if "step_seconds" in line:  # that of all steps since the line before
                seconds += max(step - last, 0) * line["step_seconds"]
                last = max(step, last)
            elif step >= self.born:
                if judged_by is None or line[judged_by] < least:
                    best = {figure: line[figure] for figure in figures}
                    least = line[judged_by] if judged_by else inf
                if step > after:
                    yield {"step": step, "seconds": seconds} | best

    def pace(self) -> Plan:
        """A short training that tells how long a step takes, alone: nothing is validated or saved before its end."""
        config, folder = self.lasting(PACE_STEPS).config, Folder.open(self.plan.folder).sub(PACE)
        train = replace(config.train, log_every=1, validate_every=PACE_STEPS, checkpoint_every=PACE_STEPS)
        return replace(self.plan, config=replace(config, train=train), folder=address(folder.name))

    def in_seconds(self, seconds: float) -> "Stage":
        """With as many steps as take so long, by the short training's later half. Raises ValueError for too few."""
        of_steps = [line["step_seconds"] for line in read_metrics(self.pace().folder, "train")]
        return self.lasting(int(seconds * self.share / median(of_steps[PACE_STEPS // 2 :])))

    @property
    def config(self) -> Run:
        assert not isinstance(self.plan.config, ClassifierRunConfig)
        return self.plan.config


@dataclass(frozen=True)
class Study:
    """What `mars tune` was told. Raises ValueError where sweep and options do not fit."""

    sweep: Sweep
    data: str
    out: Address
    workers: int = 1
    """Of each trial."""
    num_notes: int = 256
    """Held-out notes that each trial is measured on at its end."""
    tokenizer: Address | None = None
    codes: str | None = None
    """Where autoregressors alone are trained: the tokenizer, and the pictures as its codes."""

    def __post_init__(self) -> None:
        alone = self.sweep.kind == "autoregressor"
        for name in ("tokenizer", "codes"):
            if (getattr(self, name) is not None) != alone:
                rule = "trains autoregressors alone: give" if alone else "trains tokenizers of its own: leave out"
                raise ValueError(f"--{name}: the sweep {rule} --tokenizer and --codes")
        if alone and (own := [name for name in self.names if name.startswith("tokenizer.")]):
            raise ValueError(f"space: {own[0]} is up to --tokenizer: leave it out, or let kind be both")
        if self.workers < 1:
            raise ValueError(f"--workers: {self.workers} must be at least 1")
        if self.num_notes < 1:
            raise ValueError(f"--notes: {self.num_notes} must be at least 1")

    @property
    def names(self) -> set[str]:
        """Of all settings that the sweep touches."""
        chosen = (settings for choices in self.sweep.space.values() for settings in choices.values())
        return {name for settings in (self.sweep.settings, *chosen) for name in settings}

    def to_plain(self) -> dict[str, Any]:
        """What makes it another sweep. Seeds and trials may be added, and metrics chosen anew."""
        sweep = self.sweep
        return {
            "kind": sweep.kind,
            "preset": to_plain(sweep.base),
            "space": {
                part: {
                    label: {name: to_plain(value) for name, value in settings.items()}
                    for label, settings in choices.items()
                }
                for part, choices in sweep.space.items()
            },
            "flops": sweep.flops,
            "seconds": sweep.seconds,
            "data": self.data,
            "codes": self.codes,
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
            "notes": self.num_notes,
        }

    def check(self, settings: Sequence[Choice]) -> None:
        """Raises ValueError where one fits neither data, budget nor workers, or trains what another one does.

        Told before the first is tried.
        """
        trained: dict[tuple[Run, ...], Choice] = {}
        fitting = set[SpectrogramConfig | None]()  # all that data depend on: they are looked at once for each
        for place, choice in enumerate(settings):
            try:
                stages = self.stages(Trial(place, choice, self.sweep.seeds[0]))
                for stage in stages:
                    stage.plan.require_workers(self.workers)
                first = stages[0]
                spectrogram = first.config.spectrogram if isinstance(first.config, TokenizerRunConfig) else None
                if spectrogram not in fitting:
                    first.plan.require_fit(self.workers)
                    fitting.add(spectrogram)
            except ValueError as error:
                raise ValueError(f"{named(choice)}: {error}") from None
            other = trained.setdefault(tuple(stage.config for stage in stages), choice)
            if other != choice:
                alike = f"{named(other)} and {named(choice)} are one and the same training of kind {self.sweep.kind}"
                raise ValueError(f"space: {alike}: leave out what makes no difference to it")

    def trials(self, placed: Iterable[tuple[int, Choice]]) -> list[Trial]:
        """Every setting, of which the places are told, from every seed; all come once before any comes again."""
        settings = list(placed)
        return [Trial(place, choice, seed) for seed in self.sweep.seeds for place, choice in settings]

    @property
    def home(self) -> Folder:
        return Folder.open(self.out)

    def folder(self, trial: Trial) -> Folder:
        return self.home.sub(TRIALS).sub(trial.name)

    def model(self, trial: Trial) -> Address:
        """The folder that is measured."""
        return self.within(trial, "tokenizer" if self.sweep.kind == "tokenizer" else "autoregressor")

    def within(self, trial: Trial, name: str) -> Address:
        return address(self.folder(trial).sub(name).name)

    def preset(self, choice: Choice) -> Preset:
        """An autoregressor alone has the tokenizer that it is given."""
        preset = self.sweep.preset_of(choice)
        return replace(preset, tokenizer=tokenizer_run(self.tokenizer)) if self.tokenizer else preset

    @property
    def spends(self) -> Literal["flops", "seconds"]:
        """What of a report counts towards the budget."""
        return "seconds" if self.sweep.seconds else "flops"

    @cached_property
    def budget(self) -> float:
        """Training FLOPs of each trial, or seconds. Unless told, what the preset itself takes."""
        return self.sweep.flops or self.sweep.seconds or sum(self.own_flops)

    @cached_property
    def own_flops(self) -> tuple[float, ...]:
        """Of each stage of the preset that all trials are varied from."""
        preset = self.sweep.base
        if self.tokenizer:
            preset = replace(preset, tokenizer=tokenizer_run(self.tokenizer))
        return tuple(flops * run.train.steps for run, flops in self.runs(preset))

    def runs(self, preset: Preset) -> list[tuple[Run, float]]:
        """What a trial trains, and the training FLOPs of one of its steps."""
        costs: list[tuple[Run, StageCost]] = []
        if self.sweep.kind != "autoregressor":
            costs.append((preset.tokenizer, tokenizer_cost(preset.tokenizer)))
        if self.sweep.kind != "tokenizer":
            of = autoregressor_cost(preset.autoregressor, preset.tokenizer.tokenizer)
            costs.append((preset.autoregressor, of))
        return [(run, float(of.step_flops(run.train.batch_size))) for run, of in costs]

    def stages(self, trial: Trial) -> list[Stage]:
        """What the trial trains, one after the other; with a budget of seconds, as if its steps were the preset's.

        Raises ValueError where the budget is too small.
        """
        preset = self.preset(trial.choice)
        settings = preset.tokenizer.tokenizer
        seconds = preset.tokenizer.spectrogram.num_samples / preset.tokenizer.spectrogram.sample_rate
        bits = {"bits_per_second_sample": ("cross_entropy", settings.num_codes / log(2) / seconds)}
        errors = {f"{name}_reconstruction": (name, 1.0) for name in ("mse", "mae")}
        made = []
        for (run, flops), own in zip(self.runs(preset), self.own_flops, strict=True):
            share = own / sum(self.own_flops)
            steps = run.train.steps if self.sweep.seconds else int(self.budget * share / flops)
            run = lasting(run, steps, trial.seed)
            if isinstance(run, TokenizerRunConfig):
                plan, figures = Plan(run, self.data, self.within(trial, "tokenizer")), errors
            else:
                tokenizer = self.tokenizer or self.within(trial, "tokenizer")
                codes = self.codes or str(self.within(trial, CODES))
                plan, figures = Plan(run, codes, self.within(trial, "autoregressor"), tokenizer), bits
            made.append(Stage(plan, flops, share, figures))
        return made

    def facts(self, trial: Trial) -> dict[str, float]:
        """What a setting costs: tokens of a note, parameters, and FLOPs to make one."""
        preset = self.preset(trial.choice)
        codes = {"codes": float(preset.tokenizer.tokenizer.num_codes)}
        if self.sweep.kind == "tokenizer":
            alone = tokenizer_cost(preset.tokenizer)
            return codes | {"parameters": alone.num_parameters, "flops_per_note": alone.forward_flops}
        both = cost_of(preset)
        parameters = both.tokenizer.num_parameters + both.autoregressor.num_parameters
        return codes | {"parameters": parameters, "flops_per_note": both.sampling_flops}


tokenizer_run = lru_cache(maxsize=1)(read_tokenizer_run)
"""Read once for all settings."""


def lasting(run: Run, steps: int, seed: int) -> Run:
    """The run with another number of steps, and a share of them for what it does in so many steps.

    Raises ValueError for too few.
    """
    if steps < REPORTS:
        raise ValueError(
            f"flops, seconds: the budget of a trial is {steps} steps, at least {REPORTS} are needed: raise it"
        )
    share, every = steps / run.train.steps, steps // REPORTS
    train = replace(
        run.train,
        steps=steps,
        seed=seed,
        patience=0,
        log_every=min(run.train.log_every, every),
        validate_every=every,
        checkpoint_every=every,
    )
    optim = replace(run.optim, warmup_steps=round(run.optim.warmup_steps * share))
    if isinstance(run, AutoregressorRunConfig):
        return replace(run, optim=optim, train=train)
    codebook = replace(run.codebook, start_step=round(run.codebook.start_step * share))
    return replace(run, codebook=codebook, optim=optim, train=train)
