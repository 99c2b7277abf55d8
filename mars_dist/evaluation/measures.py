"""Every measure: its name, what it says, and how a version of some notes is measured by it.

Suffixes: B notes, F N bins and frames, T samples, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mars_dist.dataset import Columns
from mars_dist.evaluation.judges import Features
from mars_dist.evaluation.lines import Version
from mars_dist.metrics.generation import output_entropy
from mars_dist.metrics.pitch import pitch_correct
from mars_dist.metrics.reconstruction import log_spectral_distance, mae, mel_distance, mse, multi_resolution_stft

Measured = dict[str, dict[str, Tensor]]
"""Metric -> line -> (B,) figures."""
HIGHER, LOWER = "higher is better", "lower is better"
ALIKE = "the nearer to the real notes' the better"


@dataclass(frozen=True)
class Measure:
    """What a measure is, in words."""

    heading: str
    unit: str
    formula: str


OF_NOTES = {
    "pitch_accuracy": Measure(
        "Pitch accuracy",
        f"share of notes, {HIGHER}",
        "The pitch that autocorrelation finds (NSDF, McLeod and Wyvill 2005) is the one asked for, to the semitone.",
    ),
    "pitch_accuracy_classifier": Measure(
        "Pitch accuracy, classifier",
        f"share of notes, {HIGHER}",
        "The classifier's most likely pitch is the one asked for.",
    ),
    "family_accuracy": Measure(
        "Family accuracy", f"share of notes, {HIGHER}", "The classifier's most likely family is the one asked for."
    ),
    "pitch_entropy": Measure(
        "Pitch entropy",
        f"nats, {LOWER}",
        "Entropy of the classifier's pitches for a note: how unsure it is of the note's pitch.",
    ),
    "log_spectral_distance": Measure(
        "Log-spectral distance",
        f"dB, {LOWER}",
        "Mean over frames and bins of |20 log10| difference of a 2048/512 STFT, floor -80 dBFS, from the real note.",
    ),
    "multi_resolution_stft": Measure(
        "Multi-resolution STFT",
        LOWER,
        "Spectral convergence and mean absolute difference of log magnitudes, over STFTs of 512, 1024 and 2048 "
        "(arXiv 1910.11480), from the real note.",
    ),
    "mel_distance": Measure(
        "Mel distance",
        f"dB, {LOWER}",
        "Mean absolute difference of log-mel spectrograms of 80 bands, from the real note.",
    ),
    "mse": Measure("MSE", LOWER, "Mean squared difference of the normalised log pictures, from the real note's."),
    "mae": Measure("MAE", LOWER, "Mean absolute difference of the normalised log pictures, from the real note's."),
    "bits_per_second": Measure(
        "Bits a second",
        f"{LOWER}, on the same codes alone",
        "How badly the model foretells the codes of the real note: -log2 of the probability that it gives them, all "
        "scales together, by the note's seconds. Fewer codes take fewer bits whatever the model.",
    ),
    "training_similarity": Measure(
        "Likeness to training",
        "0 to 1, not above the real notes'",
        "Cosine between a note's picture (averaged over 4 frames, silence as 0) and its nearest training note's. "
        "Samples far above the real notes' value are remembered, not made.",
    ),
}
"""One figure a note."""

CROSSED = (
    "Notes are cut at random into halves: one half of the line against the other half of the real notes, both ways."
)
OF_SETS = {
    "pis": Measure(
        "PIS, pitch inception score",
        f"1 to 128, {ALIKE}",
        "exp of the mean KL divergence between the classifier's pitches for a note and for all notes "
        "(arXiv 2006.09266).",
    ),
    "iis": Measure("IIS, instrument inception score", f"1 to 11, {ALIKE}", "The same of the classifier's families."),
    "pkid": Measure(
        "PKID, pitch kernel distance",
        f"{LOWER}, 0 for notes of one kind",
        "Unbiased MMD^2 with the kernel (x.y/d + 1)^3 on the classifier's pitch features (arXiv 2006.09266). "
        f"{CROSSED}",
    ),
    "ikid": Measure(
        "IKID, instrument kernel distance",
        f"{LOWER}, 0 for notes of one kind",
        f"The same on the classifier's family features. {CROSSED}",
    ),
    "ndb": Measure(
        "NDB/50",
        f"share of cells, {LOWER}, about 0.05 for notes of one kind",
        "Cells of k-means on the real pictures, of 32 x 16 mean values each, that hold another share of the line's "
        f"notes (two-proportion z-test at 0.05; arXiv 1805.12462). {CROSSED}",
    ),
}
"""One figure a line, by a classifier or by the pictures."""
OF_EMBEDDINGS = {
    "fad": Measure(
        "FAD",
        f"{LOWER}; few notes make it larger",
        f"Frechet distance between Gaussians fitted to an embedding of the sound (arXiv 1812.08466). {CROSSED}",
    ),
    "kid": Measure(
        "KID",
        f"{LOWER}, 0 for notes of one kind",
        f"Unbiased MMD^2 with the kernel (x.y/d + 1)^3 on an embedding of the sound. {CROSSED}",
    ),
}
"""One figure a line for each embedding."""


def measure_named(name: str) -> Measure:
    """By its key in the figures, such as mse, or fad musicnn."""
    kind, _, embedding = name.partition(" ")
    if not embedding:
        return (OF_NOTES | OF_SETS)[name]
    measure = OF_EMBEDDINGS[kind]
    return Measure(f"{measure.heading}, {embedding.partition(':')[0]}", measure.unit, measure.formula)


def place_of(name: str) -> int:
    """In the catalogue."""
    return list(OF_NOTES | OF_SETS | OF_EMBEDDINGS).index(name.partition(" ")[0])


def measure(
    versions: Mapping[str, Version], real: Version, columns: Columns, sample_rate: int, features: Features
) -> Measured:
    """Each version's figures, one a note; distances are from the real note."""
    pitch_B, family_B = (torch.from_numpy(columns[name].astype(int)) for name in ("pitch", "family"))
    measured: Measured = {}
    for line, version in versions.items():
        wave_BT, real_BT = version.wave_BT, real.wave_BT
        figures = {
            "pitch_accuracy": pitch_correct(wave_BT, pitch_B, sample_rate),
            "log_spectral_distance": log_spectral_distance(wave_BT, real_BT),
            "multi_resolution_stft": multi_resolution_stft(wave_BT, real_BT),
            "mel_distance": mel_distance(wave_BT, real_BT, sample_rate),
            "mse": mse(version.picture_B1FN, real.picture_B1FN),
            "mae": mae(version.picture_B1FN, real.picture_B1FN),
        }
        if "pitch_logits" in features:
            pitch_BK, family_BK = (features[name][line] for name in ("pitch_logits", "family_logits"))
            figures["pitch_accuracy_classifier"] = pitch_BK.argmax(1) == pitch_B
            figures["family_accuracy"] = family_BK.argmax(1) == family_B
            figures["pitch_entropy"] = output_entropy(pitch_BK.softmax(1))
        for metric, values_B in figures.items():
            measured.setdefault(metric, {})[line] = values_B
    return measured
