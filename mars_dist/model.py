"""A model's folder, and the bundle of tokenizer and autoregressor that makes sound.

config.json  model.safetensors (averaged weights)  metrics.json
and, in an autoregressor's, histogram.safetensors (of the training notes' conditions)  tokenizer/
"""

import filecmp
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mars_dist.addresses import Address
from mars_dist.autoregressor import Autoregressor, Conditions
from mars_dist.classifier import Classifier
from mars_dist.cmx import demultiplex, multiplex
from mars_dist.conditions import Vocabulary
from mars_dist.config import AutoregressorRunConfig, ClassifierRunConfig, SpectrogramConfig, TokenizerRunConfig
from mars_dist.dataset import Columns, DatasetInfo
from mars_dist.fetched import on_disk
from mars_dist.histogram import Histogram
from mars_dist.phase import DEFAULT, Phase, wave_from_picture
from mars_dist.precision import Network, in_bf16
from mars_dist.products import packed
from mars_dist.sampling import SamplingConfig, sample_codes
from mars_dist.serialize import fingerprint, first_difference, from_plain, read_json, to_plain, write_json
from mars_dist.spectrogram import picture_from_wave
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer
from mars_dist.weights import build_with
from mars_dist.whole import whole

NOTES_AT_ONCE = 16
"""Sampled together, however many are asked for: it bounds memory and does not change a note."""
CONFIG, WEIGHTS, METRICS, TOKENIZER = "config.json", "model.safetensors", "metrics.json", "tokenizer"
HISTOGRAM = "histogram.safetensors"
NEEDED = {
    "tokenizer": ("run",),
    "autoregressor": ("run", "vocabulary", "tokenizer_fingerprint"),
    "classifier": ("run", "source"),
}
"""What the config.json of each kind of model says; the settings are objects, these are not:"""
TEXTS = ("tokenizer_fingerprint", "source")


def save_tokenizer(folder: Path, weights: dict[str, Tensor], run: TokenizerRunConfig, metrics: dict[str, Any]) -> None:
    """Write a tokenizer's folder."""
    save_folder(folder, weights, {"kind": "tokenizer", "run": to_plain(run)}, metrics)


def keep_tokenizer(folder: Path, tokenizer_folder: Address) -> None:
    """Have a tokenizer within an autoregressor's folder, as it is now."""
    inner, given = folder / TOKENIZER, on_disk(tokenizer_folder)
    there = [name for name in (CONFIG, WEIGHTS, METRICS) if (given / name).exists()]  # it may come without figures
    for name in there:
        if not (inner / name).exists() or not filecmp.cmp(given / name, inner / name, shallow=False):
            Folder.open(inner).send(given / name)


def save_autoregressor(
    folder: Path,
    weights: dict[str, Tensor],
    run: AutoregressorRunConfig,
    vocabulary: Vocabulary,
    histogram: Histogram,
    metrics: dict[str, Any],
) -> None:
    """Write an autoregressor's folder around the tokenizer that `keep_tokenizer` put in it: one folder is one model."""
    config = {
        "kind": "autoregressor",
        "run": to_plain(run),
        "vocabulary": to_plain(vocabulary),
        "tokenizer_fingerprint": model_fingerprint(folder / TOKENIZER),
    }
    histogram.save(folder / HISTOGRAM)
    save_folder(folder, weights, config, metrics)


def save_classifier(
    folder: Path, weights: dict[str, Tensor], run: ClassifierRunConfig, info: DatasetInfo, metrics: dict[str, Any]
) -> None:
    """Write a classifier's folder, which remembers the notes that it was trained on."""
    save_folder(folder, weights, {"kind": "classifier", "run": to_plain(run), "source": info.source}, metrics)


def save_folder(folder: Path, weights: dict[str, Tensor], config: dict[str, Any], metrics: dict[str, Any]) -> None:
    """The settings last: a folder without them holds no model."""
    with whole(folder / WEIGHTS) as half_written:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, half_written)
    write_json(folder / METRICS, metrics)
    write_json(folder / CONFIG, config)


def read_config(folder: Address, kind: str) -> dict[str, Any]:
    """A folder's config.json. Raises ValueError where the folder is not a finished one of that kind."""
    here = on_disk(folder)
    if not (here / CONFIG).exists() or not (here / WEIGHTS).exists():
        raise ValueError(f"{folder}: holds no trained {kind} ({CONFIG} and {WEIGHTS}): give the --out of its training")
    config = read_json(here / CONFIG)
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else config
        raise ValueError(f"{folder}: holds a model of kind {found!r:.40}, wanted is {kind!r}")
    for name in NEEDED[kind]:
        if not isinstance(config.get(name), str if name in TEXTS else dict):
            raise ValueError(f"{folder}/{CONFIG}: damaged, {name} is {config.get(name)!r:.40}: copy it again")
    return config


def read_tokenizer_run(folder: Address) -> TokenizerRunConfig:
    """The settings of a tokenizer's folder. Raises ValueError where it is none."""
    return from_plain(TokenizerRunConfig, read_config(folder, "tokenizer")["run"])


def model_fingerprint(folder: Address) -> str:
    """Of its settings and weights: what an autoregressor and its codes remember their tokenizer by."""
    here = on_disk(folder)
    return fingerprint(here / CONFIG, here / WEIGHTS)


def num_parameters(folder: Path) -> int:
    """Of a model, counted without reading its weights."""
    with safe_open(folder / WEIGHTS, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def load_tokenizer(folder: Address) -> tuple[Tokenizer, TokenizerRunConfig]:
    """A tokenizer with averaged weights, in evaluation mode."""
    run = read_tokenizer_run(folder)
    return build_with(lambda: Tokenizer(run.tokenizer, run.spectrogram, run.codebook), on_disk(folder) / WEIGHTS), run


def load_classifier(folder: Address, info: DatasetInfo) -> Classifier:
    """The classifier of a data set's notes, with averaged weights, in evaluation mode; CMX does not matter to it.

    Raises ValueError where it was trained on other notes, or on pictures that were made with other settings.
    """
    config = read_config(folder, "classifier")
    run = from_plain(ClassifierRunConfig, config["run"])
    trained_on = {"source": config["source"], "spectrogram": to_plain(run.spectrogram)}
    judged = {"source": info.source, "spectrogram": to_plain(info.spectrogram)}
    for settings in (trained_on, judged):
        settings["spectrogram"].pop("cmx")
    if difference := first_difference(trained_on, judged):
        raise ValueError(
            f"{folder}: its classifier was trained on a data set with {difference}: "
            "train one on this data set with mars train-classifier"
        )
    return build_with(lambda: Classifier(run.classifier, run.spectrogram), on_disk(folder) / WEIGHTS)


@dataclass
class Mars:
    """A trained model: notes from conditions, codes from notes, notes from codes."""

    tokenizer: Tokenizer
    autoregressor: Autoregressor
    spectrogram: SpectrogramConfig
    vocabulary: Vocabulary
    histogram: Histogram
    pack: bool = True
    """On a CPU: compute with copies whose weights are laid out for it, faster and in more memory."""

    @classmethod
    def from_pretrained(cls, folder: Address, device: torch.device | str = "cpu", *, pack: bool = True) -> "Mars":
        """Read an autoregressor's folder, local or s3://: JSON and safetensors only.

        Raises ValueError where it does not fit.
        """
        config, folder = read_config(folder, "autoregressor"), on_disk(folder)
        tokenizer, tokenizer_run = load_tokenizer(folder / TOKENIZER)
        if config["tokenizer_fingerprint"] != model_fingerprint(folder / TOKENIZER):
            raise ValueError(f"{folder / TOKENIZER}: is not the tokenizer that this autoregressor was trained with")
        run = from_plain(AutoregressorRunConfig, config["run"])
        vocabulary = from_plain(Vocabulary, config["vocabulary"])
        histogram = Histogram.load(folder / HISTOGRAM, vocabulary.cardinalities)
        settings = (run.autoregressor, tokenizer_run.tokenizer, vocabulary.cardinalities)
        autoregressor = build_with(lambda: Autoregressor(*settings), folder / WEIGHTS)
        networks = tokenizer.to(device), autoregressor.to(device)
        return cls(*networks, tokenizer_run.spectrogram, vocabulary, histogram, pack)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: not the copies for computing, which lie as oneDNN alone knows."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def device(self) -> torch.device:
        """Where it computes, whatever it is given, and what it gives lies."""
        return self.autoregressor.levels_KD.device

    def generate(
        self,
        count: int = 1,
        *,
        pitch: int | None = None,
        velocity: int | None = None,
        family: str | None = None,
        source: str | None = None,
        instrument: str | None = None,
        qualities: Sequence[str] = (),
        sampling: SamplingConfig | None = None,
        phase: Phase = DEFAULT,
    ) -> NDArray[np.float32]:
        """New notes (count, T) at the model's sample rate. What is not asked for is drawn: `labels` tells how."""
        asked = {"pitch": pitch, "velocity": velocity, "family": family, "source": source, "instrument": instrument}
        conditions = self.vocabulary.of_words(count, qualities, **asked)
        waves = []
        for ids in torch.arange(count).split(NOTES_AT_ONCE):
            part = {name: values_B[ids] for name, values_B in conditions.items()}
            pictures_B1FN = self.sample_pictures(part, ids.tolist(), sampling or SamplingConfig())
            waves.append(wave_from_picture(pictures_B1FN, self.spectrogram, phase).cpu())
        return torch.cat(waves).numpy()

    def labels(
        self,
        count: int = 1,
        *,
        qualities: Sequence[str] = (),
        sampling: SamplingConfig | None = None,
        **asked: int | str | None,
    ) -> list[dict[str, Any]]:
        """What each note is that `generate` makes of the same arguments: as asked for, or drawn; None: left open."""
        conditions = self.vocabulary.of_words(count, qualities, **asked)
        return self.vocabulary.to_words(self.complete(conditions, list(range(count)), sampling or SamplingConfig()))

    def complete(self, conditions: Conditions, ids: list[int], sampling: SamplingConfig) -> Conditions:
        """The conditions with what is not asked for drawn from the training notes', unless it shall stay open."""
        return conditions if sampling.unasked == "null" else self.histogram.fill(conditions, ids, sampling.seed)

    @torch.no_grad()
    def sample_pictures(self, conditions: Conditions, ids: list[int], sampling: SamplingConfig) -> Tensor:
        """(B, 1, F, N): new pictures; all that is random about each depends on its id and the seed alone."""
        conditions = self.there(self.complete(conditions, ids, sampling))
        autoregressor = self.bf16_sampler if sampling.precision == "bf16" else self.float32_sampler
        return self.decode(sample_codes(autoregressor, self.tokenizer.quantizer, conditions, ids, sampling))

    @cached_property
    def packed_tokenizer(self) -> Tokenizer:
        """What encodes and decodes; like the samplers a copy, made once it is needed."""
        return self.laid_out(self.tokenizer)

    @cached_property
    def float32_sampler(self) -> Autoregressor:
        return self.laid_out(self.autoregressor)

    @cached_property
    def bf16_sampler(self) -> Autoregressor:
        return self.laid_out(in_bf16(self.autoregressor))

    def laid_out(self, network: Network) -> Network:
        return packed(network) if self.pack else network

    @torch.no_grad()
    def encode(self, waves_BT: NDArray[np.floating] | Tensor) -> Tensor:
        """Notes (B, T) in [-1, 1], such as `generate` gives -> codes (B, L). Raises ValueError for what is no such."""
        waves_BT, config = torch.as_tensor(waves_BT), self.spectrogram
        if waves_BT.shape[1:] != (config.num_samples,) or not waves_BT.is_floating_point():
            found = f"{waves_BT.dtype} {tuple(waves_BT.shape)}"
            raise ValueError(
                f"waves: {found}, must be floating point (notes, {config.num_samples}) in [-1, 1] at "
                f"{config.sample_rate} Hz: mix to mono, resample, scale, cut or fill up with silence"
            )
        pictures_B1FN = picture_from_wave(waves_BT.to(self.device, torch.float32), config)
        return self.packed_tokenizer.encode(multiplex(pictures_B1FN, config.cmx))

    @torch.no_grad()
    def bits_per_second(self, codes_BL: Tensor, columns: Columns) -> Tensor:
        """(B,): what it would take to write down the codes of these rows of a data set by this model's foretelling.

        In main memory, as all that is measured.
        """
        codes_BL, conditions = codes_BL.to(self.device), self.there(self.vocabulary.of_rows(columns))
        nats_BL = self.autoregressor(self.tokenizer.quantizer.next_inputs(codes_BL), conditions, codes_BL=codes_BL)
        return nats_BL.sum(1).cpu() / math.log(2) * self.spectrogram.sample_rate / self.spectrogram.num_samples

    @torch.no_grad()
    def decode(self, codes_BL: Tensor) -> Tensor:
        """Codes (B, L) -> pictures (B, 1, F, N); `wave_from_picture` makes them sound."""
        return demultiplex(self.packed_tokenizer.decode(codes_BL.to(self.device)), self.spectrogram.cmx)

    def there(self, conditions: Conditions) -> Conditions:
        """On its device."""
        return {name: values_B.to(self.device) for name, values_B in conditions.items()}
