"""The lines: each one's version of some held-out notes, as pictures and as sound.

Suffixes: B notes, C H W the multiplexed picture, F N bins and frames, T samples, L codes over all scales.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mars_dist import codes
from mars_dist.addresses import Address
from mars_dist.cmx import demultiplex, multiplex
from mars_dist.config import SpectrogramConfig
from mars_dist.dataset import Columns
from mars_dist.devices import own_device
from mars_dist.fetched import on_disk
from mars_dist.model import CONFIG, Mars
from mars_dist.phase import Phase, wave_from_picture
from mars_dist.sampling import SamplingConfig
from mars_dist.serialize import read_json
from mars_dist.spectrogram import picture_from_wave
from mars_dist.tokenizer import Tokenizer

SHARED = ("real", "griffin_lim")
"""griffin_lim: the real notes' own pictures, with the phase that all lines of the runs have too."""
OF_A_RUN = ("reconstruction", "sample", "nearest_training_note")
OF_A_TOKENIZER = OF_A_RUN[:1]
COLUMNS = ["note_str", "picture", "wave", "pitch", "velocity", "family", "source", "instrument_str", "qualities"]


@dataclass(frozen=True)
class Version:
    """One line's version of some notes."""

    picture_B1FN: Tensor
    wave_BT: Tensor

    def one(self, i: int) -> "Version":
        """Of one note. Copies: a slice is pickled with all that it is a slice of."""
        return Version(self.picture_B1FN[i : i + 1].clone(), self.wave_BT[i : i + 1].clone())


def line_of(kind: str, run: str) -> str:
    """A run's line; runs have names where there are several of them."""
    return f"{kind}, {run}" if run else kind


def lines_of(runs: Mapping[str, Address]) -> list[str]:
    """All lines, in the order of the page."""
    return [*SHARED, *(line_of(kind, run) for run, folder in runs.items() for kind in kinds_of(folder))]


def kinds_of(folder: Address) -> Sequence[str]:
    """The lines that a folder's model has."""
    return OF_A_TOKENIZER if is_tokenizer(folder) else OF_A_RUN


def is_tokenizer(folder: Address) -> bool:
    """Rather than an autoregressor, which has one."""
    file = on_disk(folder) / CONFIG
    config = read_json(file) if file.exists() else None
    return isinstance(config, dict) and config.get("kind") == "tokenizer"


def tokenizer_of(folder: Address) -> tuple[Tokenizer, SpectrogramConfig]:
    """The run's tokenizer, whichever of the two the folder is."""
    if is_tokenizer(folder):
        return codes.tokenizer_of(folder)
    mars = model_of(folder)
    return mars.packed_tokenizer, mars.spectrogram


@cache
def model_of(folder: Address) -> Mars:
    """Loaded once a process."""
    return Mars.from_pretrained(folder, own_device())


def pictures_of(columns: Columns, spectrogram: SpectrogramConfig) -> Tensor:
    """(B, 1, F, N), as they were before CMX."""
    return demultiplex(torch.from_numpy(columns["picture"].astype(np.float32)), spectrogram.cmx)


def real_version(spectrogram: SpectrogramConfig, columns: Columns) -> Version:
    """The notes themselves."""
    return Version(pictures_of(columns, spectrogram), torch.from_numpy(columns["wave"].astype(np.float32)) / 2**15)


def sounding(picture_B1FN: Tensor, spectrogram: SpectrogramConfig, phase: Phase) -> Version:
    """Pictures made sound where they lie; both in main memory."""
    return Version(picture_B1FN.cpu(), wave_from_picture(picture_B1FN, spectrogram, phase).cpu())


def resynthesis(real: Version, spectrogram: SpectrogramConfig, phase: Phase) -> Version:
    """The notes' own pictures made sound, and what picture that sound has."""
    wave_BT = wave_from_picture(real.picture_B1FN.to(own_device()), spectrogram, phase)
    return Version(picture_from_wave(wave_BT, spectrogram).cpu(), wave_BT.cpu())


@torch.inference_mode()
def versions_of_run(
    folder: Address, real: Version, columns: Columns, first_id: int, sampling: SamplingConfig, phase: Phase
) -> tuple[dict[str, Version], Tensor]:
    """A run's reconstructions and, where it makes any, samples of some notes, and the notes' codes (B, L).

    A sample is asked for with the conditions of its note; its noise is keyed by its place among all that are measured.
    """
    tokenizer, spectrogram = tokenizer_of(folder)
    codes_BL = tokenizer.encode(multiplex(real.picture_B1FN.to(own_device()), spectrogram.cmx))
    pictures = {"reconstruction": demultiplex(tokenizer.decode(codes_BL), spectrogram.cmx)}
    if not is_tokenizer(folder):
        mars, ids = model_of(folder), list(range(first_id, first_id + len(codes_BL)))
        pictures["sample"] = mars.sample_pictures(mars.vocabulary.of_rows(columns), ids, sampling)
    return {kind: sounding(made_B1FN, spectrogram, phase) for kind, made_B1FN in pictures.items()}, codes_BL.cpu()
