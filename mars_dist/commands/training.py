"""Commands that train: one stage, all in a row, many settings side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import Inline, local, make_folder, measured, parse, preset_first
from mars_dist.config import (
    AutoregressorRunConfig,
    ClassifierConfig,
    ClassifierRunConfig,
    OptimConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.presets import Preset
from mars_dist.progress import say

if TYPE_CHECKING:
    from mars_dist.training.plan import Plan


@dataclass(frozen=True)
class Workers:
    workers: int | None = None
    """One a GPU, or a CPU process each; 0: in this process, without Ray. Default: all GPUs, or else 2 processes."""
    min_workers: int | None = None
    """Elastic: begin, or go on, with so few where machines are missing, and with more once they come."""


@dataclass(frozen=True)
class TrainTokenizer:
    data: str
    """Folder that mars preprocess wrote."""
    config: Annotated[TokenizerRunConfig, Inline]
    out: str = "runs/tokenizer"
    init_from: str | None = None
    """Fine-tuning: the folder of a tokenizer of the same shape, whose weights are the first ones."""
    spread: Annotated[Workers, Inline] = Workers()


@dataclass(frozen=True)
class TrainAutoregressor:
    data: str
    """Folder that mars encode wrote."""
    tokenizer: str
    """Folder that mars train-tokenizer wrote."""
    config: Annotated[AutoregressorRunConfig, Inline]
    out: str = "runs/autoregressor"
    init_from: str | None = None
    """Fine-tuning: the folder of an autoregressor of the same shape, whose weights are the first ones."""
    spread: Annotated[Workers, Inline] = Workers()


@dataclass(frozen=True)
class TrainClassifier:
    data: str
    """Folder that mars preprocess wrote; the spectrogram's settings are its own."""
    out: str = "runs/classifier"
    classifier: ClassifierConfig = ClassifierRunConfig().classifier
    optim: OptimConfig = ClassifierRunConfig().optim
    train: TrainConfig = ClassifierRunConfig().train
    spread: Annotated[Workers, Inline] = Workers()


def train_tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer on pictures."""
    preset, rest = preset_first(arguments, "train-tokenizer")
    default = TrainTokenizer(tyro.MISSING, preset.tokenizer)
    command = parse(TrainTokenizer, rest, "train-tokenizer PRESET", default)
    from mars_dist.training.plan import Plan

    init_from = address(command.init_from) if command.init_from else None
    plan = Plan(command.config, str(address(command.data)), address(command.out), init_from=init_from)
    train(plan, command.spread)


def train_ar(arguments: Sequence[str]) -> None:
    """Train an autoregressor on codes."""
    preset, rest = preset_first(arguments, "train-ar")
    default = TrainAutoregressor(tyro.MISSING, tyro.MISSING, preset.autoregressor)
    command = parse(TrainAutoregressor, rest, "train-ar PRESET", default)
    from mars_dist.training.plan import Plan

    tokenizer, out = address(command.tokenizer), address(command.out)
    init_from = address(command.init_from) if command.init_from else None
    plan = Plan(command.config, str(address(command.data)), out, tokenizer, init_from)
    train(plan, command.spread)


def train_classifier(arguments: Sequence[str]) -> None:
    """Train the classifier that measures generated notes."""
    command = parse(TrainClassifier, arguments, "train-classifier")
    from mars_dist.dataset import DatasetInfo
    from mars_dist.storage import Folder
    from mars_dist.training.plan import Plan

    spectrogram = DatasetInfo.load(Folder.open(command.data)).spectrogram
    config = ClassifierRunConfig(spectrogram, command.classifier, command.optim, command.train)
    train(Plan(config, str(address(command.data)), address(command.out)), command.spread)


def train(plan: "Plan", spread: Workers) -> None:
    from mars_dist.launch import fit

    fit(plan, spread.workers, say, spread.min_workers)


@dataclass(frozen=True)
class RunPipeline:
    source: str
    """Notes, as mars preprocess takes them."""
    out: str
    """Folder for everything that the stages make, each in one of its own, and for report.html."""
    config: Annotated[Preset, Inline]
    classifier: ClassifierConfig = ClassifierRunConfig().classifier
    classifier_train: TrainConfig = ClassifierRunConfig().train
    splits: tuple[str, ...] | None = None
    """Those that are measured. Default: valid, and test where there is one."""
    notes: int = 512
    """Notes of each split that are measured, spread evenly."""
    shown: int = 8
    """Notes of each split that the page plays."""
    spread: Annotated[Workers, Inline] = Workers()


def pipeline(arguments: Sequence[str]) -> None:
    """All stages in a row, from notes to a report."""
    preset, rest = preset_first(arguments, "pipeline")
    command = parse(RunPipeline, rest, "pipeline PRESET", RunPipeline(tyro.MISSING, tyro.MISSING, preset))
    asked = measured(command.notes, command.shown, command.splits)
    from mars_dist.pipeline import Pipeline

    classifier = ClassifierRunConfig(
        command.config.tokenizer.spectrogram, command.classifier, train=command.classifier_train
    )
    source, out = str(address(command.source)), address(command.out)
    work, spread = Pipeline(source, out, command.config, classifier, asked, command.shown), command.spread
    print(work.run(spread.workers, spread.workers, spread.min_workers))


def quickstart(arguments: Sequence[str]) -> None:
    """From nothing to sound: notes, training, samples, measures."""
    from mars_dist.quickstart import Quickstart, run

    options = parse(Quickstart, arguments, "quickstart")
    make_folder(local(options.out))
    run(options)


@dataclass(frozen=True)
class Tune:
    file: Positional[str]
    """A sweep, such as tune/scale_schedules.py."""
    data: str
    """Folder that mars preprocess wrote."""
    out: str
    """Folder of the trials and of what they say together, local or s3://."""
    trials: int | None = None
    """How many settings are tried, each from all seeds of the sweep. Default: all."""
    search: Literal["grid", "random", "optuna"] | None = None
    """Default: grid where all are tried, else random."""
    workers: int = 1
    """Of each trial: one a GPU, or a CPU process each."""
    notes: int = 256
    """Held-out notes that each trial is measured on at its end."""
    tokenizer: str | None = None
    """Where autoregressors alone are trained: folder that mars train-tokenizer wrote."""
    codes: str | None = None
    """Where autoregressors alone are trained: folder that mars encode wrote."""


def tune(arguments: Sequence[str]) -> None:
    """Train many settings at equal cost, and say which is best."""
    command = parse(Tune, arguments, "tune")
    from mars_dist.sweeps.records import Records
    from mars_dist.sweeps.search import make_search
    from mars_dist.sweeps.study import Study
    from mars_dist.sweeps.sweep import load_sweep

    tokenizer = address(command.tokenizer) if command.tokenizer else None
    codes = str(address(command.codes)) if command.codes else None
    sweep, data = load_sweep(command.file), str(address(command.data))
    study = Study(sweep, data, address(command.out), command.workers, command.notes, tokenizer, codes)
    records = Records(study)
    search = make_search(command.search, study, command.trials, records)
    study.home.require_writable()
    from mars_dist.lease import sole_writer
    from mars_dist.sweeps.conclude import conclude

    with sole_writer(study.home, say):
        if not search.ended:
            from mars_dist.distributed.tune import run_trials

            run_trials(study, search, records, say)
        print(conclude(study, records, say))
