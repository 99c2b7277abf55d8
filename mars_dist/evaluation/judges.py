"""What notes are judged by: a trained classifier, embeddings of sound, and the pictures themselves.

Suffixes: B notes, F N bins and frames, T samples, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from mars_dist.addresses import Address
from mars_dist.dataset import DatasetInfo
from mars_dist.evaluation.lines import Version
from mars_dist.fetched import on_disk
from mars_dist.metrics.embeddings import load_embedding
from mars_dist.model import METRICS, load_classifier, model_fingerprint
from mars_dist.serialize import read_json
from mars_dist.spectrogram import picture_from_wave

Features = dict[str, dict[str, Tensor]]
"""Kind of features -> line -> (B, D)."""
CLASSIFIER, PICTURE = ("pitch_logits", "family_logits", "pitch_features", "family_features"), "picture"
"""Kinds: what the classifier gives, and cells of the picture; the others go by their embedding's name."""
PICTURE_CELLS = (32, 16)
"""Of a picture as it is sorted into cells: bins x frames, each the mean of many."""


@dataclass(frozen=True)
class Judges:
    """Which of them there are: small enough to send to a worker."""

    classifier: Address | None = None
    """Folder of a classifier; None: what rests on one is left out."""
    embeddings: tuple[str, ...] = ()
    """Such as musicnn, or vggish:PATH."""

    def check(self, info: DatasetInfo) -> None:
        """Raises ValueError where a judge does not fit the data set."""
        if self.classifier:
            load_classifier(self.classifier, info)
        for name in self.embeddings:
            embedding_of(name, info.spectrogram.sample_rate)

    def describe(self, info: DatasetInfo) -> list[str]:
        """What the figures rest on, a sentence for each judge."""
        told = [describe_classifier(self.classifier)] if self.classifier else []
        for name in self.embeddings:
            one = embedding_of(name, info.spectrogram.sample_rate)
            told.append(f"{one.name}: weights {one.fingerprint}, {one.sample_rate:,} Hz, {one.width} features a note.")
        return told

    def features(self, versions: Mapping[str, Version], info: DatasetInfo) -> Features:
        """What each judge makes of each version's sound."""
        features: Features = {}
        for line, version in versions.items():
            for kind, values_BD in self.features_of(version.wave_BT, info).items():
                features.setdefault(kind, {})[line] = values_BD
        return features

    @torch.inference_mode()
    def features_of(self, wave_BT: Tensor, info: DatasetInfo) -> dict[str, Tensor]:
        picture_B1FN = picture_from_wave(wave_BT, info.spectrogram)
        found = {PICTURE: F.adaptive_avg_pool2d(picture_B1FN, PICTURE_CELLS).flatten(1)}
        if self.classifier:
            found |= zip(CLASSIFIER, classifier_of(self.classifier, info)(picture_B1FN), strict=True)
        embeddings = {name: embedding_of(name, info.spectrogram.sample_rate) for name in self.embeddings}
        return found | {name: embedding(wave_BT) for name, embedding in embeddings.items()}


embedding_of = lru_cache(load_embedding)
classifier_of = lru_cache(maxsize=1)(load_classifier)
"""Loaded once a process."""


def describe_classifier(folder: Address) -> str:
    """Which one it is, and how far it is to be trusted."""
    here = on_disk(folder)
    figures = read_json(here / METRICS)
    told = f"{accuracies(figures)} of {figures['notes']:,.0f} held-out notes right"
    if "test/notes" in figures:
        unseen = {name.removeprefix("test/"): value for name, value in figures.items()}
        told += f", {accuracies(unseen)} of {unseen['notes']:,.0f} notes of the test split"
    return f"Classifier {model_fingerprint(folder)[:12]}: {told}."


def accuracies(figures: Mapping[str, float]) -> str:
    return f"pitch {figures['pitch_accuracy']:.3f} and family {figures['family_accuracy']:.3f}"
