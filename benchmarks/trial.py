"""One trial of a study: a tokenizer and, where asked for, an autoregressor on its codes, trained and measured.

Trials run side by side, each in one thread of one process, on all CPUs of the machine or cluster. A study that is run
again does only the trials that are missing.
Suffixes: B notes, C H W the multiplexed picture, F N bins and frames, T samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mars_dist import codes
from mars_dist.cmx import demultiplex
from mars_dist.config import AutoregressorRunConfig, TokenizerRunConfig
from mars_dist.dataset import DatasetInfo, Folder, Rows
from mars_dist.distributed.cluster import over_cluster
from mars_dist.evaluation import NOTES_AT_ONCE, Measured, Version, chosen, evaluate, measure, read, real_version
from mars_dist.launch import fit
from mars_dist.model import METRICS, load_tokenizer
from mars_dist.phase import DEFAULT, wave_from_picture
from mars_dist.presets import Preset
from mars_dist.progress import say
from mars_dist.quickstart import cpu
from mars_dist.sampling import AS_ASKED
from mars_dist.serialize import first_difference, read_json, to_plain, write_json
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


def so_long(preset: Preset, steps: Sequence[int], seed: int = 0, rate: float = 1.0) -> Preset:
    """The preset with so many steps of tokenizer and autoregressor, a seed, and its learning rates times `rate`."""

    def stage(run: Stage, num: int) -> Stage:
        optim = replace(run.optim, lr=run.optim.lr * rate)
        train = replace(run.train, steps=num, seed=seed, validate_every=max(1, num // 3), checkpoint_every=num)
        return replace(run, optim=optim, train=train)

    return Preset(stage(preset.tokenizer, steps[0]), stage(preset.autoregressor, steps[1]))


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
    wanted = chosen(Rows(trial.data, "valid").num_rows, trial.num_notes, 0)
    parts = [wanted[first : first + NOTES_AT_ONCE] for first in range(0, len(wanted), NOTES_AT_ONCE)]
    measured = [reconstruct(trial, part) for part in parts]
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
    tokenizer, config = load_tokenizer(trial.folder / "tokenizer")
    whole = trial.whole or trial.data
    spectrogram, columns = DatasetInfo.load(Folder.open(whole)).spectrogram, read(whole, "valid", rows)
    real = real_version(spectrogram, columns)
    x_BCHW = torch.from_numpy(read(trial.data, "valid", rows, ["picture"])["picture"].astype(np.float32))
    picture_B1FN = demultiplex(tokenizer.decode(tokenizer.encode(x_BCHW)), config.spectrogram.cmx)
    num_missing = real.picture_B1FN.shape[2] - picture_B1FN.shape[2]
    picture_B1FN = torch.nn.functional.pad(picture_B1FN, (0, 0, 0, num_missing), value=-1.0)
    made = Version(picture_B1FN, wave_from_picture(picture_B1FN, spectrogram))
    return measure({"real": real, "reconstruction": made}, real, columns["pitch"], spectrogram.sample_rate)


def samples(trial: Trial, config: AutoregressorRunConfig) -> Figures:
    """Train the autoregressor on the tokenizer's codes; what it cost, and how its samples do."""
    folder = trial.folder / "autoregressor"
    tokenizer, data = trial.trained or (str(trial.folder / "tokenizer"), str(trial.folder / "codes"))
    if not trial.trained:
        encode(trial.data, Path(tokenizer), Path(data))
    fit(Plan(config, data, folder, tokenizer), 0, quiet)
    evaluation = evaluate(
        folder, trial.data, "valid", trial.num_notes, 0, AS_ASKED, DEFAULT, lambda done, total: None, map
    )
    return {
        "cross_entropy": min(line["cross_entropy"] for line in read_metrics(folder, "valid")),
        **{f"{metric}_sample": lines["sample"].value for metric, lines in evaluation.measures.items()},
        "autoregressor_step_ms": step_milliseconds(folder),
    }


def encode(pictures: str, tokenizer: Path, out: Path) -> None:
    """What mars encode does, in this process."""
    folder, before = Folder.open(out), DatasetInfo.load(Folder.open(pictures))
    info = codes.info_of(before, tokenizer, load_tokenizer(tokenizer)[1].tokenizer)
    for shard in info.shards:
        codes.make_shard(shard, pictures, tokenizer, folder)
    info.save(folder)


def mean(measured: Sequence[Measured], metric: str, line: str) -> float:
    return float(torch.cat([part[metric][line] for part in measured]).mean())


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


def machine() -> str:
    return f"{cpu()}; torch {torch.__version__}; a trial is one thread of one process, as many at a time as cores"
