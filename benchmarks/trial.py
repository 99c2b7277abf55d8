"""One trial of a study: a tokenizer and, where asked for, an autoregressor on its codes, trained and measured.

Trials run side by side, each in one thread of one process, on all CPUs of the machine or cluster. A study that is run
again does only the trials that are missing.
Suffixes: B notes, C H W the multiplexed picture, F N bins and frames, T samples.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mars_dist import codes
from mars_dist.cmx import demultiplex
from mars_dist.config import AutoregressorRunConfig, SpectrogramConfig, TokenizerRunConfig
from mars_dist.cpus import cpu
from mars_dist.dataset import DatasetInfo
from mars_dist.devices import own_device
from mars_dist.distributed.cluster import over_cluster
from mars_dist.evaluation.evaluate import Task, chosen, cut, evaluate
from mars_dist.evaluation.judges import Judges
from mars_dist.evaluation.lines import COLUMNS, Version, real_version
from mars_dist.evaluation.measures import Measured, measure
from mars_dist.launch import fit
from mars_dist.model import METRICS
from mars_dist.phase import DEFAULT, wave_from_picture
from mars_dist.progress import say, silent
from mars_dist.rows import Rows
from mars_dist.sampling import AS_ASKED
from mars_dist.serialize import first_difference, read_json, to_plain, write_json
from mars_dist.storage import Folder
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

RESULT = "result.json"
Figures = dict[str, float]
Stage = TypeVar("Stage", TokenizerRunConfig, AutoregressorRunConfig)


@dataclass(frozen=True)
class Trial:
    """What is trained and measured, and where."""

    name: str
    folder: Path
    data: str
    """Folder that mars preprocess wrote."""
    tokenizer: TokenizerRunConfig | None = None
    """What to train first; None: `trained` names a tokenizer."""
    autoregressor: AutoregressorRunConfig | None = None
    trained: tuple[str, str] | None = None
    """The folders of a tokenizer and of its codes."""
    whole: str | None = None
    """Where `data` has low frequencies alone: the same notes' whole pictures, which are what is measured against."""
    num_notes: int = 192
    """Held-out notes that are measured."""


def options_of(
    description: str | None, source: str, what: str, steps: Sequence[int], seeds: Sequence[int] = (0,)
) -> Namespace:
    """What every study is told: where it reads, where it writes, how long each stage is trained, from which seeds."""
    parser = ArgumentParser(description=description)
    parser.add_argument(f"--{source}", required=True, type=absolute, help=what)
    parser.add_argument("--out", required=True, type=absolute)
    parser.add_argument("--steps", type=int, nargs=len(steps), default=steps, help="of each stage that is trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    return parser.parse_args()


def absolute(folder: str) -> Path:
    """Trials run in folders of their own."""
    return Path(folder).absolute()


def slug(name: str) -> str:
    """A trial's name as that of a folder."""
    return name.replace(", ", "_").replace(" ", "-")


def so_long(run: Stage, steps: int, seed: int = 0, rate: float = 1.0) -> Stage:
    """The stage with so many steps, a seed, and its learning rate times `rate`."""
    optim = replace(run.optim, lr=run.optim.lr * rate)
    train = replace(run.train, steps=steps, seed=seed, validate_every=max(1, steps // 3), checkpoint_every=steps)
    return replace(run, optim=optim, train=train)


def compare(
    names: Iterable[str], seeds: Sequence[int], trial: Callable[[str, int], Trial], columns: Sequence[str]
) -> str:
    """Run the trial of each name and seed; a table with a row for each name."""
    names = list(names)
    found = run_all(trial(name, seed) for seed in seeds for name in names)
    return table([(name, [found[trial(name, seed).name] for seed in seeds]) for name in names], columns)


def run_all(trials: Iterable[Trial]) -> dict[str, Figures]:
    """The figures of each trial by its name, in the order of the trials."""
    trials = list(trials)
    found: dict[str, Figures] = {}
    for name, figures in over_cluster(run, trials):
        found[name] = figures
        say(f"{len(found)}/{len(trials)} {name}: " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return {trial.name: found[trial.name] for trial in trials}


def run(trial: Trial) -> tuple[str, Figures]:
    """Train and measure, unless that was done before."""
    result, figures = trial.folder / RESULT, Figures()
    settings = to_plain(trial) | {"folder": str(trial.folder)}
    if result.exists():
        before = read_json(result)
        if difference := first_difference(before["trial"], settings):
            raise ValueError(f"{trial.folder}: holds a trial with {difference}: choose another --out")
        return trial.name, before["figures"]
    if trial.tokenizer:
        figures |= reconstruction(trial, trial.tokenizer)
    if trial.autoregressor:
        figures |= samples(trial, trial.autoregressor)
    write_json(result, {"trial": settings, "figures": figures})
    return trial.name, figures


def reconstruction(trial: Trial, config: TokenizerRunConfig) -> Figures:
    """Train the tokenizer; what it cost, and how it does on held-out notes, beside the real notes' pitch accuracy."""
    folder = trial.folder / "tokenizer"
    fit(Plan(config, trial.data, folder), 0, quiet)
    parts = cut(chosen(Rows(trial.data, "valid").num_rows, trial.num_notes, 0), 0)
    measured = [reconstruct(trial, part.rows) for part in parts]
    metrics = read_json(folder / METRICS)
    return {
        "pitch_accuracy_real": mean(measured, "pitch_accuracy", "real"),
        **{f"{metric}_reconstruction": mean(measured, metric, "reconstruction") for metric in measured[0]},
        "perplexity": metrics["perplexity"],
        "usage": metrics["usage"],
        "tokenizer_step_ms": step_milliseconds(folder),
    }


@torch.inference_mode()
def reconstruct(trial: Trial, rows: NDArray[np.int64]) -> Measured:
    """The figures of some real notes and of their reconstructions, silent where the tokenizer has no frequencies."""
    (tokenizer, _), settings = codes.tokenizer_of(trial.folder / "tokenizer"), spectrogram_of(trial.data)
    whole = trial.whole or trial.data
    spectrogram, columns = spectrogram_of(whole), Rows(whole, "valid").take(rows, COLUMNS)
    real = real_version(spectrogram, columns)
    x_BCHW = torch.from_numpy(Rows(trial.data, "valid").take(rows, ["picture"])["picture"].astype(np.float32))
    picture_B1FN = demultiplex(tokenizer.decode(tokenizer.encode(x_BCHW.to(own_device()))), settings.cmx).cpu()
    num_missing = real.picture_B1FN.shape[2] - picture_B1FN.shape[2]
    picture_B1FN = torch.nn.functional.pad(picture_B1FN, (0, 0, 0, num_missing), value=-1.0)
    made = Version(picture_B1FN, wave_from_picture(picture_B1FN, spectrogram))
    return measure({"real": real, "reconstruction": made}, real, columns, spectrogram.sample_rate, {})


def samples(trial: Trial, config: AutoregressorRunConfig) -> Figures:
    """Train the autoregressor on the tokenizer's codes; what it cost, and how its samples do."""
    folder = trial.folder / "autoregressor"
    tokenizer, data = trial.trained or (str(trial.folder / "tokenizer"), str(trial.folder / "codes"))
    if not trial.trained:
        codes.encode_here(trial.data, Path(tokenizer), data)
    fit(Plan(config, data, folder, tokenizer), 0, quiet)
    task = Task({"": folder}, trial.data, "valid", AS_ASKED, DEFAULT, Judges())
    evaluation = evaluate(task, trial.num_notes, 0, silent, map)
    return {
        "cross_entropy": min(line["cross_entropy"] for line in read_metrics(folder, "valid")),
        **{f"{metric}_sample": lines["sample"].value for metric, lines in evaluation.measures.items()},
        "autoregressor_step_ms": step_milliseconds(folder),
    }


def spectrogram_of(data: str) -> SpectrogramConfig:
    return DatasetInfo.load(Folder.open(data)).spectrogram


def mean(measured: Sequence[Measured], metric: str, line: str) -> float:
    return float(torch.cat([part[metric][line] for part in measured]).double().mean())


def step_milliseconds(folder: Path) -> float:
    """The median over the lines of the log."""
    return 1000 * median(line["step_seconds"] for line in read_metrics(folder, "train"))


def quiet(line: str) -> None:
    pass


def table(rows: Sequence[tuple[str, Sequence[Figures]]], columns: Sequence[str]) -> str:
    """Markdown: for each row its name and, in each column, the mean over its trials and half their range."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, trials in rows:
        cells = []
        for column in columns:
            values = [figures[column] for figures in trials]
            spread = f" ± {(max(values) - min(values)) / 2:.2g}" if len(values) > 1 else ""
            cells.append(f"{sum(values) / len(values):.4g}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def heading(steps: Sequence[int]) -> str:
    """What every table rests on."""
    machine = f"{cpu()}; torch {torch.__version__}; a trial is one thread of one process, as many at a time as cores"
    return f"{machine}\n{' and '.join(map(str, steps))} steps, tiny\n"
