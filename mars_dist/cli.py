"""`mars ...`: one function a command. Imports are lazy, so that --help is instant."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from mars_dist.addresses import address
from mars_dist.arguments import local, make_folder, parse, preset_first
from mars_dist.config import (
    AutoregressorRunConfig,
    ClassifierConfig,
    ClassifierRunConfig,
    OptimConfig,
    SpectrogramConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.errors import Stopped, TrainingFailed
from mars_dist.presets import Preset
from mars_dist.progress import say, tenths

if TYPE_CHECKING:
    from mars_dist.training.plan import Plan

Inline = tyro.conf.arg(name="")
"""A field whose own fields are written without its name."""


@dataclass(frozen=True)
class Workers:
    workers: int | None = None
    """One a GPU, or a CPU process each; 0: in this process, without Ray. Default: all GPUs, or else 2 processes."""
    min_workers: int | None = None
    """Elastic: begin, or go on, with so few where machines are missing, and with more once they come."""


@dataclass(frozen=True)
class Preprocess:
    source: str
    """Folder that holds nsynth-train/, nsynth-valid/ and nsynth-test/, or their .tar.gz; or any audio beside labels.csv
    or labels.jsonl (file, pitch, family); or one of these itself. Local or s3://."""
    out: str
    """Folder of the data set, local or s3://."""
    spectrogram: SpectrogramConfig
    shard_rows: int = 256
    """Notes in a Parquet file."""


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
class Encode:
    data: str
    """Folder that mars preprocess wrote."""
    tokenizer: str
    """Folder that mars train-tokenizer wrote."""
    out: str
    """Folder of the codes."""


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


@dataclass(frozen=True)
class RunPipeline:
    source: str
    """Notes, as mars preprocess takes them."""
    out: str
    """Folder for everything that the stages make, each in one of its own, and for report.html."""
    config: Annotated[Preset, Inline]
    classifier: ClassifierConfig = ClassifierRunConfig().classifier
    classifier_train: TrainConfig = ClassifierRunConfig().train
    splits: tuple[str, ...] = ("valid", "test")
    """Those that are evaluated."""
    notes: int = 512
    """Notes of each split that are measured, spread evenly."""
    shown: int = 8
    """Notes of each split that the page plays."""
    spread: Annotated[Workers, Inline] = Workers()


@dataclass(frozen=True)
class ListPresets:
    preset: Positional[str | None] = None
    """One alone: a name or a .toml. Default: all that there are."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the page docs/presets.md."""


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


def presets(arguments: Sequence[str]) -> None:
    """Show what each preset is, and what it costs."""
    from mars_dist.presets import PRESETS, load

    command = parse(ListPresets, arguments, "presets")
    shown = {Path(command.preset).stem: load(command.preset)} if command.preset else PRESETS
    from mars_dist.preset_table import as_markdown, as_text

    print(as_markdown(shown) if command.markdown else as_text(shown))


def notes(arguments: Sequence[str]) -> None:
    """Render notes in NSynth's format from a soundfont."""
    from mars_dist.notes import NotesConfig, render

    @dataclass(frozen=True)
    class Notes:
        out: str
        """Folder of the notes."""
        notes: Annotated[NotesConfig, Inline] = field(default_factory=NotesConfig)

    command = parse(Notes, arguments, "notes")
    finished = (Path(command.out) / "notes.json").exists()
    record = render(command.out, command.notes, progress=tenths("notes"))
    counted = ", ".join(f"{num} {split}" for split, num in record["counts"].items())
    say(f"{command.out}: " + (f"finished already, {counted}: nothing to do" if finished else counted))


def preprocess(arguments: Sequence[str]) -> None:
    """Turn notes into a data set of pictures."""
    preset, rest = preset_first(arguments, "preprocess")
    default = Preprocess(tyro.MISSING, tyro.MISSING, preset.tokenizer.spectrogram)
    command = parse(Preprocess, rest, "preprocess PRESET", default)
    from mars_dist.distributed.data import preprocess as run

    run(str(address(command.source)), str(address(command.out)), command.spectrogram, command.shard_rows, say)


def train(plan: "Plan", spread: Workers) -> None:
    from mars_dist.launch import fit

    fit(plan, spread.workers, say, spread.min_workers)


def train_tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer on pictures."""
    preset, rest = preset_first(arguments, "train-tokenizer")
    default = TrainTokenizer(tyro.MISSING, preset.tokenizer)
    command = parse(TrainTokenizer, rest, "train-tokenizer PRESET", default)
    from mars_dist.training.plan import Plan

    init_from = address(command.init_from) if command.init_from else None
    plan = Plan(command.config, str(address(command.data)), address(command.out), init_from=init_from)
    train(plan, command.spread)


def encode(arguments: Sequence[str]) -> None:
    """Turn pictures into codes."""
    command = parse(Encode, arguments, "encode")
    from mars_dist.distributed.data import encode as run

    run(str(address(command.data)), address(command.tokenizer), str(address(command.out)), say)


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
    """Train the classifier of pitch and family that measures generated notes."""
    command = parse(TrainClassifier, arguments, "train-classifier")
    from mars_dist.dataset import DatasetInfo
    from mars_dist.storage import Folder
    from mars_dist.training.plan import Plan

    spectrogram = DatasetInfo.load(Folder.open(command.data)).spectrogram
    config = ClassifierRunConfig(spectrogram, command.classifier, command.optim, command.train)
    train(Plan(config, str(address(command.data)), address(command.out)), command.spread)


def pipeline(arguments: Sequence[str]) -> None:
    """All stages in a row, from notes to a report; what is finished is passed over."""
    preset, rest = preset_first(arguments, "pipeline")
    command = parse(RunPipeline, rest, "pipeline PRESET", RunPipeline(tyro.MISSING, tyro.MISSING, preset))
    require_measured(command.notes, command.shown, command.splits)
    from mars_dist.pipeline import Pipeline

    classifier = ClassifierRunConfig(
        command.config.tokenizer.spectrogram, command.classifier, train=command.classifier_train
    )
    measured = dict.fromkeys(command.splits, command.notes)
    source, out = str(address(command.source)), address(command.out)
    work, spread = Pipeline(source, out, command.config, classifier, measured, command.shown), command.spread
    print(work.run(spread.workers, spread.workers, spread.min_workers))


def sample(arguments: Sequence[str]) -> None:
    """Make new notes."""
    from mars_dist.phase import DEFAULT, Phase
    from mars_dist.sampling import SamplingConfig

    @dataclass(frozen=True)
    class Sample:
        model: Positional[str]
        """Folder that mars train-ar wrote."""
        out: str = "samples"
        """Folder of the wav files, and of a JSON file that tells what each note was asked for, or given."""
        count: int = 1
        pitch: int | None = None
        """MIDI, 0 to 127."""
        velocity: int | None = None
        """MIDI, 1 to 127; the nearest of 25, 50, 75, 100 and 127 counts."""
        family: str | None = None
        source: str | None = None
        instrument: str | None = None
        qualities: tuple[str, ...] = ()
        """Those that the note shall have, such as: bright percussive."""
        sampling: SamplingConfig = field(default_factory=SamplingConfig)
        phase: Phase = DEFAULT
        """How pictures become sound: Griffin-Lim, phase-gradient integration, or the two in turn."""

    command = parse(Sample, arguments, "sample")
    if command.count < 1:
        raise ValueError(f"--count: {command.count} must be at least 1")
    from mars_dist.audio import write_wav
    from mars_dist.model import Mars
    from mars_dist.serialize import write_json

    mars = Mars.from_pretrained(address(command.model))
    names = ("pitch", "velocity", "family", "source", "instrument", "qualities", "sampling")
    asked = {name: getattr(command, name) for name in names}
    waves = mars.generate(command.count, **asked, phase=command.phase)
    labels = mars.labels(command.count, **asked)
    parts = (command.instrument or command.family or command.source, command.pitch, command.velocity)
    name = "-".join(str(part) for part in parts if part is not None) or "note"
    out = local(command.out)
    make_folder(out)
    paths = [out / f"{name}-{i:03d}.wav" for i in range(command.count)]
    for path, wave_T in zip(paths, waves, strict=True):
        write_wav(path, wave_T, mars.spectrogram.sample_rate)
        say(str(path))
    write_json(out / f"{name}.json", {path.name: label for path, label in zip(paths, labels, strict=True)})


def evaluate(arguments: Sequence[str]) -> None:
    """Measure models on held-out notes, and write a page to listen to."""
    from mars_dist.phase import DEFAULT, Phase
    from mars_dist.sampling import AS_ASKED, SamplingConfig

    @dataclass(frozen=True)
    class Evaluate:
        models: Positional[tuple[str, ...]]
        """Folders that mars train-ar or mars train-tokenizer wrote: one, or several side by side."""
        data: str
        """Folder that mars preprocess wrote."""
        classifier: str | None = None
        """Folder that mars train-classifier wrote. Without one, what rests on it is left out."""
        embeddings: tuple[str, ...] = ()
        """For FAD and KID: musicnn (make embeddings installs it), vggish:WEIGHTS."""
        report: str | None = None
        """Where to write the page, local or s3://; its figures lie beside it. Default: report.html in the first
        model's folder."""
        splits: tuple[str, ...] = ("valid", "test")
        notes: int = 512
        """Notes of each split that are measured, spread evenly."""
        shown: int = 8
        """Notes of each split that the page plays."""
        sampling: SamplingConfig = AS_ASKED
        phase: Phase = DEFAULT
        """How pictures become sound: Griffin-Lim, phase-gradient integration, or the two in turn."""

    command = parse(Evaluate, arguments, "evaluate")
    if not command.models:
        raise ValueError("models: none is named: give the --out of mars train-ar, or several")
    require_measured(command.notes, command.shown, command.splits)
    folders = [address(folder) for folder in command.models]
    if len(set(folders)) < len(folders):
        raise ValueError(f"models: {' '.join(command.models)}: one is named twice: name each once")
    from mars_dist.evaluation.judges import Judges
    from mars_dist.page import evaluate_folders
    from mars_dist.storage import Folder

    report = address(command.report) if command.report else None
    out, file = Folder.of(report) if report else (Folder.open(folders[0]), "report.html")
    out.require_writable("--report")
    judges = Judges(address(command.classifier) if command.classifier else None, command.embeddings)
    limits, data = dict.fromkeys(command.splits, command.notes), str(address(command.data))
    print(
        evaluate_folders(folders, data, limits, command.shown, judges, command.sampling, command.phase, out, file, say)
    )


def require_measured(notes: int, shown: int, splits: Sequence[str]) -> None:
    if notes < 1:
        raise ValueError(f"--notes: {notes} must be at least 1")
    if shown < 0:
        raise ValueError(f"--shown: {shown} must be at least 0")
    if not splits:
        raise ValueError("--splits: none is named: name one or more, such as valid test")


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
    """Train many settings at equal cost, side by side, and say which is best."""
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


@dataclass(frozen=True)
class Show:
    data: Positional[str]
    """Folder that mars preprocess or mars encode wrote."""
    out: str = "examples.png"
    """Where to draw some of its notes."""
    split: str = "train"
    """Of those that are drawn."""
    notes: int = 12
    """How many are drawn, spread evenly over the split."""


def show(arguments: Sequence[str]) -> None:
    """Tell what a data set holds, and draw some of its notes."""
    command = parse(Show, arguments, "show")
    if command.notes < 1:
        raise ValueError(f"--notes: {command.notes} must be at least 1")
    out = local(command.out)
    from mars_dist.dataset import Rows
    from mars_dist.show import draw, table

    rows = Rows(command.data, command.split)
    print(table(rows.info, rows.folder))
    make_folder(out.parent)
    draw(rows, command.notes).save(out)
    say(str(out))


def quickstart(arguments: Sequence[str]) -> None:
    """From nothing to sound: render notes, train both stages with `tiny`, sample, measure."""
    from mars_dist.quickstart import Quickstart, run

    options = parse(Quickstart, arguments, "quickstart")
    make_folder(local(options.out))
    run(options)


def submit(arguments: Sequence[str]) -> None:
    """Run a command as a job on a cluster, and follow it."""
    from mars_dist.submission import submit as run

    sys.exit(run(arguments))


def jobs(arguments: Sequence[str]) -> None:
    """List a cluster's jobs, follow one, or stop it."""
    from mars_dist.submission import jobs as run

    sys.exit(run(arguments))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "quickstart": quickstart,
    "notes": notes,
    "preprocess": preprocess,
    "train-tokenizer": train_tokenizer,
    "encode": encode,
    "train-ar": train_ar,
    "train-classifier": train_classifier,
    "sample": sample,
    "evaluate": evaluate,
    "tune": tune,
    "pipeline": pipeline,
    "submit": submit,
    "jobs": jobs,
    "show": show,
    "check": check,
    "presets": presets,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script, and what each of jobs/ runs. A user's mistake is one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        if arguments[0] not in COMMANDS:
            raise ValueError(f"{arguments[0]}: there is no such command: choose {', '.join(COMMANDS)}")
        COMMANDS[arguments[0]](arguments[1:])
    except (ValueError, TrainingFailed) as error:
        if debug:
            raise
        print(f"mars: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"mars: {stopped}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        print("mars: stopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)


def usage() -> str:
    lines = [f"  {name:16} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: mars COMMAND ...  (mars COMMAND --help tells its options; --debug: tracebacks)", "", *lines]
    )
