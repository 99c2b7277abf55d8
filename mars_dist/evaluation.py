"""How good a model is on held-out notes, each figure beside the lines that say what it could be.

Suffixes: B notes, C H W the multiplexed picture, F N bins and frames, T samples, L codes over all scales, K scales,
W the codes of all codebooks side by side.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.cmx import demultiplex, multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import Columns, Rows, require_same
from mars_dist.metrics.codebook import count_codes, usage
from mars_dist.metrics.neighbours import NearestNote
from mars_dist.metrics.pitch import pitch_correct
from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mse
from mars_dist.metrics.summary import Estimate, bootstrap
from mars_dist.model import Mars
from mars_dist.phase import Phase, wave_from_picture
from mars_dist.sampling import SamplingConfig
from mars_dist.spectrogram import picture_from_wave

LINES = ("real", "griffin_lim", "reconstruction", "sample", "nearest_training_note")
"""griffin_lim: the real notes' own pictures, with the phase that all other lines have too."""
NOTES_AT_ONCE = 8
COLUMNS = ["note_str", "picture", "wave", "pitch", "velocity", "family", "source", "instrument_str", "qualities"]


Item = TypeVar("Item")
Result = TypeVar("Result")
Measured = dict[str, dict[str, Tensor]]
"""Metric -> line -> (B,) figures."""


class Map(Protocol):
    """How pieces of work are done: `map`, or `over_cluster` of mars_dist.distributed.cluster; in any order."""

    def __call__(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterable[Result]: ...


@dataclass(frozen=True)
class Version:
    """One line's version of some notes."""

    picture_B1FN: Tensor
    wave_BT: Tensor


@dataclass(frozen=True)
class Part:
    """Some of the notes that are measured: a piece of work."""

    first: int
    """Place of the first one among all measured notes; a sample's noise is keyed by its place."""
    rows: NDArray[np.int64]
    """Which rows of the split."""
    num_shown: int


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: Part
    measured: Measured
    columns: Columns
    sample_B1FN: Tensor
    """float16."""
    hits_KW: Tensor
    shown: list[dict[str, Version]]


@dataclass
class Evaluation:
    """What was measured on one split."""

    split: str
    num_notes: int
    measures: dict[str, dict[str, Estimate]]
    """Metric -> line -> estimate."""
    codebook: dict[str, float]
    shown: list[dict[str, Version]] = field(default_factory=list)
    """For the notes that are shown: line -> version (one note)."""
    rows: Columns = field(default_factory=dict)
    """The evaluated notes, numbers and names alone; those shown come first."""


def evaluate(
    folder: Path,
    data: str,
    split: str,
    num_notes: int,
    num_shown: int,
    sampling: SamplingConfig,
    phase: Phase,
    progress: Callable[[int, int], None],
    over: Map,
) -> Evaluation:
    """Measure real notes, their pictures made sound, reconstructions, samples and the samples' nearest training notes.

    A sample is asked for with the conditions of a held-out note. The figures do not depend on how the work is spread.
    Raises ValueError where the data set has other settings than the model, or lacks the split.
    """
    mars = model_of(folder)
    rows = Rows(data, split)
    if rows.info.kind != "pictures":
        raise ValueError(f"{data}: holds {rows.info.kind}, not pictures: give the --out of mars preprocess")
    require_same(mars.spectrogram, rows.info)
    sampling.per_scale(mars.autoregressor.schedule)  # refused here, before the work is spread
    parts = cut(chosen(rows.num_rows, num_notes, num_shown), num_shown)
    total = sum(len(part.rows) for part in parts)
    outcomes: list[Outcome] = []
    work = partial(measure_part, folder=folder, data=data, split=split, sampling=sampling, phase=phase)
    for outcome in over(work, parts):
        outcomes.append(outcome)
        progress(sum(len(one.part.rows) for one in outcomes), total)
    outcomes.sort(key=lambda outcome: outcome.part.first)
    samples_B1FN = torch.cat([outcome.sample_B1FN for outcome in outcomes])
    nearest_B1FN = nearest_training_notes(mars, Rows(data, "train"), samples_B1FN).split(NOTES_AT_ONCE)
    # Copies: a slice is pickled with all that it is a slice of.
    jobs = [(part, picture_B1FN.clone()) for part, picture_B1FN in zip(parts, nearest_B1FN, strict=True)]
    copies = dict(over(partial(measure_copies, folder=folder, data=data, split=split, phase=phase), jobs))
    measured = [outcome.measured for outcome in outcomes] + [copies[part.first] for part in parts]
    return Evaluation(
        split=split,
        num_notes=total,
        measures={metric: {line: estimate(measured, metric, line) for line in LINES} for metric in measured[0]},
        codebook=usage(torch.stack([outcome.hits_KW for outcome in outcomes]).sum(0), mars.tokenizer.config),
        shown=[versions for outcome in outcomes for versions in outcome.shown],
        rows={name: np.concatenate([outcome.columns[name] for outcome in outcomes]) for name in outcomes[0].columns},
    )


def estimate(measured: list[Measured], metric: str, line: str) -> Estimate:
    """The mean over all parts that have the line, with its interval."""
    return bootstrap(torch.cat([figures[metric][line] for figures in measured if line in figures[metric]]))


@lru_cache(maxsize=1)
def model_of(folder: Path) -> Mars:
    """Loaded once a process."""
    return Mars.from_pretrained(folder)


def chosen(num_rows: int, num_notes: int, num_shown: int) -> NDArray[np.int64]:
    """About num_notes rows that lie evenly over the split; first num_shown of them that lie evenly over these."""
    wanted = np.unique(np.linspace(0, num_rows - 1, min(num_notes, num_rows)).round().astype(np.int64))
    first = np.unique(np.linspace(0, len(wanted) - 1, min(num_shown, len(wanted))).round().astype(np.int64))
    return np.concatenate([wanted[first], np.delete(wanted, first)])


def cut(rows: NDArray[np.int64], num_shown: int) -> list[Part]:
    return [
        Part(first, rows[first : first + NOTES_AT_ONCE], max(0, num_shown - first))
        for first in range(0, len(rows), NOTES_AT_ONCE)
    ]


def read(data: str, split: str, wanted: NDArray[np.int64], names: list[str] = COLUMNS) -> Columns:
    """The wanted rows of a split, in their order."""
    rows = Rows(data, split)
    starts = np.cumsum([0] + [group.num_rows for group in rows.groups])
    parts: list[Columns] = []
    for group, start in zip(rows.groups, starts, strict=False):
        inside = np.flatnonzero((wanted >= start) & (wanted < start + group.num_rows))
        if len(inside):
            found = rows.read_group(group, names)
            parts.append({name: values[wanted[inside] - start] for name, values in found.items()} | {"place": inside})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    back = np.argsort(joined.pop("place"))
    return {name: values[back] for name, values in joined.items()}


def measure_part(part: Part, folder: Path, data: str, split: str, sampling: SamplingConfig, phase: Phase) -> Outcome:
    """Every line's figures but those of the nearest training notes."""
    mars, columns = model_of(folder), read(data, split, part.rows)
    versions, codes_BL = versions_of(mars, columns, part.first, sampling, phase)
    return Outcome(
        part,
        measure(versions, versions["real"], columns["pitch"], mars.spectrogram.sample_rate),
        {name: values for name, values in columns.items() if values.ndim == 1},
        versions["sample"].picture_B1FN.half(),
        count_codes(codes_BL, mars.tokenizer.config),
        [one_note(versions, i) for i in range(min(part.num_shown, len(part.rows)))],
    )


def measure_copies(job: tuple[Part, Tensor], folder: Path, data: str, split: str, phase: Phase) -> tuple[int, Measured]:
    """The figures of training notes as if they were the samples, and the place of the first one."""
    part, picture_B1FN = job
    mars, columns = model_of(folder), read(data, split, part.rows)
    version = Version(picture_B1FN.float(), wave_from_picture(picture_B1FN.float(), mars.spectrogram, phase))
    copies = {"nearest_training_note": version}
    return part.first, measure(
        copies, real_version(mars.spectrogram, columns), columns["pitch"], mars.spectrogram.sample_rate
    )


def real_version(spectrogram: SpectrogramConfig, part: Columns) -> Version:
    """The notes themselves."""
    x_BCHW = torch.from_numpy(part["picture"].astype(np.float32))
    return Version(demultiplex(x_BCHW, spectrogram.cmx), torch.from_numpy(part["wave"].astype(np.float32)) / 2**15)


@torch.inference_mode()
def versions_of(
    mars: Mars, part: Columns, first_id: int, sampling: SamplingConfig, phase: Phase
) -> tuple[dict[str, Version], Tensor]:
    """Every line's version of some notes but the nearest training notes, and the notes' codes (B, L)."""
    real = real_version(mars.spectrogram, part)
    sound = partial(wave_from_picture, config=mars.spectrogram, phase=phase)
    ceiling_BT = sound(real.picture_B1FN)
    codes_BL = mars.tokenizer.encode(multiplex(real.picture_B1FN, mars.spectrogram.cmx))
    reconstruction_B1FN = mars.decode(codes_BL)
    ids = list(range(first_id, first_id + len(codes_BL)))
    sample_B1FN = mars.sample_pictures(mars.vocabulary.of_rows(part), ids, sampling)
    return {
        "real": real,
        "griffin_lim": Version(picture_from_wave(ceiling_BT, mars.spectrogram), ceiling_BT),
        "reconstruction": Version(reconstruction_B1FN, sound(reconstruction_B1FN)),
        "sample": Version(sample_B1FN, sound(sample_B1FN)),
    }, codes_BL


def one_note(versions: dict[str, Version], i: int) -> dict[str, Version]:
    """Copies: a slice is pickled with all that it is a slice of."""
    return {
        line: Version(version.picture_B1FN[i : i + 1].clone(), version.wave_BT[i : i + 1].clone())
        for line, version in versions.items()
    }


def measure(versions: dict[str, Version], real: Version, pitch_B: NDArray[np.int64], sample_rate: int) -> Measured:
    """Each version's figures, one a note; distances are from the real note."""
    measured: Measured = {}
    for line, version in versions.items():
        figures = {
            "pitch_accuracy": pitch_correct(version.wave_BT, torch.from_numpy(pitch_B), sample_rate).float(),
            "log_spectral_distance": log_spectral_distance(version.wave_BT, real.wave_BT),
            "mse": mse(version.picture_B1FN, real.picture_B1FN),
            "mae": mae(version.picture_B1FN, real.picture_B1FN),
        }
        for metric, values_B in figures.items():
            measured.setdefault(metric, {})[line] = values_B
    return measured


def nearest_training_notes(mars: Mars, training: Rows, samples_B1FN: Tensor) -> Tensor:
    """The picture (B, 1, F, N) of the training note nearest to each sample; one pass over the training notes."""
    found = NearestNote(samples_B1FN.flatten(1))
    nearest_B1FN = torch.empty_like(samples_B1FN)
    for group in training.groups:
        first = found.num_seen
        x_NCHW = torch.from_numpy(training.read_group(group, ["picture"])["picture"].astype(np.float32))
        bank_N1FN = demultiplex(x_NCHW, mars.spectrogram.cmx)
        found.update(bank_N1FN.flatten(1))
        renewed_B = found.index_B >= first
        nearest_B1FN[renewed_B] = bank_N1FN[found.index_B[renewed_B] - first].to(nearest_B1FN.dtype)
    return nearest_B1FN
