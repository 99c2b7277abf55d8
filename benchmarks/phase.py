"""From pictures to sound: each way to find the phase, beside the Fourier transforms alone that it takes.

    python benchmarks/phase.py

Sixteen made-up notes of four seconds at once, two threads, pictures of `tiny`.
"""

from functools import partial
from typing import get_args

import torch
from side_by_side import Call, Table, options, take_turns, tell

from mars_dist.phase import ITERATIONS, Phase, wave_from_picture
from mars_dist.presets import TINY
from mars_dist.spectrogram import picture_from_wave, stft, window

NOTES, CONFIG = 16, TINY.tokenizer.spectrogram


def notes() -> torch.Tensor:
    """(B, T): ten harmonics each that die away."""
    time_T = torch.arange(CONFIG.num_samples) / CONFIG.sample_rate
    hertz_B1 = 65.4 * 2 ** (torch.arange(NOTES)[:, None] / 4)
    harmonics = [torch.sin(2 * torch.pi * n * hertz_B1 * time_T) * torch.exp(-n * time_T) / n for n in range(1, 11)]
    return torch.stack(harmonics).sum(0) / 4


def way(phase: Phase) -> Call:
    picture_B1FN = picture_from_wave(notes(), CONFIG)
    return lambda: wave_from_picture(picture_B1FN, CONFIG, phase)


def transforms(num: int) -> Call:
    """There and back so often, and back once more."""
    spectrum_BFN, window_T = stft(notes(), CONFIG), window(CONFIG.n_fft, torch.device("cpu"))

    def back(x_BFN: torch.Tensor) -> torch.Tensor:
        return torch.istft(x_BFN, CONFIG.n_fft, CONFIG.hop, window=window_T, length=CONFIG.num_samples)

    def work() -> None:
        x_BFN = spectrum_BFN
        for _ in range(num):
            x_BFN = stft(back(x_BFN), CONFIG)
        back(x_BFN)

    return work


def main() -> None:
    given = options(__doc__)
    ways: tuple[Phase, ...] = get_args(Phase)
    set_ups = {f"{phase}, {ITERATIONS[phase]} iterations": partial(way, phase) for phase in ways}
    limits = {name: partial(transforms, ITERATIONS[phase]) for name, phase in zip(set_ups, ways, strict=True)}
    found = take_turns(set_ups | {f"limit of {name}": limit for name, limit in limits.items()}, given.rounds)
    rows = []
    for name in set_ups:
        times, least = found[name], found[f"limit of {name}"]
        rows.append(
            [
                name,
                f"{1000 * times.median / NOTES:.1f} ms",
                f"{NOTES / times.median:.0f}",
                f"{1 / times.over(least):.0%}",
            ]
        )
    settings = (
        f"{NOTES} notes of {CONFIG.num_samples / CONFIG.sample_rate:.1f} s at once, 2 threads, {given.rounds} rounds"
    )
    tell(given, Table("Phase", settings, ["", "a note", "notes/s", "of it Fourier transforms"], rows))


if __name__ == "__main__":
    main()
