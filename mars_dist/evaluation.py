"""How good a model is on held-out notes, each figure beside the lines that say what it could be.

Suffixes: B notes, C H W the multiplexed picture, F N bins and frames, T samples, L tokens over all scales, K scales,
V codebook size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mars_dist.cmx import demultiplex, multiplex
from mars_dist.dataset import Columns, Rows, require_same
from mars_dist.metrics.codebook import count_codes, usage
from mars_dist.metrics.neighbours import NearestNote
from mars_dist.metrics.pitch import pitch_correct
from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mse
from mars_dist.metrics.summary import Estimate, bootstrap
from mars_dist.model import Mars
from mars_dist.sampling import SamplingConfig
from mars_dist.spectrogram import griffin_lim, picture_from_wave

LINES = ("real", "griffin_lim", "reconstruction", "sample", "nearest_training_note")
NOTES_AT_ONCE = 32
COLUMNS = ["note_str", "picture", "wave", "pitch", "velocity", "family", "source", "instrument_str"]


@dataclass(frozen=True)
class Version:
    """One line's version of some notes."""

    picture_B1FN: Tensor
    wave_BT: Tensor


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
    """The evaluated notes, without pictures and waves; those shown come first."""


def evaluate(
    mars: Mars,
    data: str,
    split: str,
    num_notes: int,
    num_shown: int,
    sampling: SamplingConfig,
    say: Callable[[str], None],
) -> Evaluation:
    """Measure real notes, their Griffin-Lim ceiling, reconstructions, samples and the samples' nearest training notes.

    A sample is asked for with the conditions of a held-out note. Raises ValueError where the data set has other
    settings than the model, or lacks the split.
    """
    rows = Rows(data, split)
    require_same(mars.spectrogram, rows.info)
    columns = spread(rows, num_notes, num_shown)
    measured: dict[str, dict[str, list[Tensor]]] = {}
    shown: list[dict[str, Version]] = []
    samples: list[Tensor] = []
    hits_KV = torch.zeros(len(mars.autoregressor.schedule), mars.tokenizer.config.codebook_size)
    parts = [
        {name: values[start : start + NOTES_AT_ONCE] for name, values in columns.items()}
        for start in range(0, len(columns["pitch"]), NOTES_AT_ONCE)
    ]
    for i, part in enumerate(parts):
        say(f"evaluate {split}: {i * NOTES_AT_ONCE}/{len(columns['pitch'])} notes")
        versions, codes_BL = versions_of(mars, part, i * NOTES_AT_ONCE, sampling)
        hits_KV += count_codes(codes_BL, mars.autoregressor.schedule, hits_KV.shape[1])
        samples.append(versions["sample"].picture_B1FN.half())
        measure(measured, versions, versions["real"], part["pitch"], mars.spectrogram.sample_rate)
        shown += [one_note(versions, j) for j in range(len(part["pitch"])) if i * NOTES_AT_ONCE + j < num_shown]
    say(f"evaluate {split}: nearest training notes")
    nearest = nearest_training_notes(mars, Rows(data, "train"), torch.cat(samples)).split(NOTES_AT_ONCE)
    for part, picture_B1FN in zip(parts, nearest, strict=True):
        wave_BT = griffin_lim(picture_B1FN.float(), mars.spectrogram)
        copies = {"nearest_training_note": Version(picture_B1FN.float(), wave_BT)}
        measure(measured, copies, real_version(mars, part), part["pitch"], mars.spectrogram.sample_rate)
    return Evaluation(
        split=split,
        num_notes=len(columns["pitch"]),
        measures={
            metric: {line: bootstrap(torch.cat(lines[line])) for line in LINES if line in lines}
            for metric, lines in measured.items()
        },
        codebook=usage(hits_KV, mars.autoregressor.schedule),
        shown=shown,
        rows={name: values for name, values in columns.items() if name not in ("picture", "wave")},
    )


def spread(rows: Rows, num_notes: int, num_shown: int) -> Columns:
    """About num_notes rows that lie evenly over the split; first num_shown of them that lie evenly over these."""
    wanted = np.unique(np.linspace(0, rows.num_rows - 1, min(num_notes, rows.num_rows)).round().astype(np.int64))
    first = np.unique(np.linspace(0, len(wanted) - 1, min(num_shown, len(wanted))).round().astype(np.int64))
    order = np.concatenate([wanted[first], np.delete(wanted, first)])
    starts = np.cumsum([0] + [group.num_rows for group in rows.groups])
    parts: list[Columns] = []
    for group, start in zip(rows.groups, starts, strict=False):
        inside = np.flatnonzero((order >= start) & (order < start + group.num_rows))
        if len(inside):
            read = rows.read_group(group, COLUMNS)
            parts.append({name: values[order[inside] - start] for name, values in read.items()} | {"place": inside})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    back = np.argsort(joined.pop("place"))
    return {name: values[back] for name, values in joined.items()}


def real_version(mars: Mars, part: Columns) -> Version:
    """The notes themselves."""
    x_BCHW = torch.from_numpy(part["picture"].astype(np.float32))
    return Version(demultiplex(x_BCHW, mars.spectrogram.cmx), torch.from_numpy(part["wave"].astype(np.float32)) / 2**15)


@torch.inference_mode()
def versions_of(
    mars: Mars, part: Columns, first_id: int, sampling: SamplingConfig
) -> tuple[dict[str, Version], Tensor]:
    """Every line's version of some notes but the nearest training notes, and the notes' codes (B, L)."""
    real = real_version(mars, part)
    ceiling_BT = griffin_lim(real.picture_B1FN, mars.spectrogram)
    codes_BL = mars.tokenizer.encode(multiplex(real.picture_B1FN, mars.spectrogram.cmx))
    reconstruction_B1FN = mars.decode(codes_BL)
    ids = list(range(first_id, first_id + len(codes_BL)))
    sample_B1FN = mars.sample_pictures(mars.vocabulary.of_rows(part), ids, sampling)
    return {
        "real": real,
        "griffin_lim": Version(picture_from_wave(ceiling_BT, mars.spectrogram), ceiling_BT),
        "reconstruction": Version(reconstruction_B1FN, griffin_lim(reconstruction_B1FN, mars.spectrogram)),
        "sample": Version(sample_B1FN, griffin_lim(sample_B1FN, mars.spectrogram)),
    }, codes_BL


def one_note(versions: dict[str, Version], i: int) -> dict[str, Version]:
    return {
        line: Version(version.picture_B1FN[i : i + 1], version.wave_BT[i : i + 1]) for line, version in versions.items()
    }


def measure(
    measured: dict[str, dict[str, list[Tensor]]],
    versions: dict[str, Version],
    real: Version,
    pitch_B: NDArray[np.int64],
    sample_rate: int,
) -> None:
    """Add each version's figures, one a note, to what was measured so far; distances are from the real note."""
    for line, version in versions.items():
        figures = {
            "pitch_accuracy": pitch_correct(version.wave_BT, torch.from_numpy(pitch_B), sample_rate).float(),
            "log_spectral_distance": log_spectral_distance(version.wave_BT, real.wave_BT),
            "mse": mse(version.picture_B1FN, real.picture_B1FN),
            "mae": mae(version.picture_B1FN, real.picture_B1FN),
        }
        for metric, values_B in figures.items():
            measured.setdefault(metric, {}).setdefault(line, []).append(values_B)


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
