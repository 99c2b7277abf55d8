"""A few notes to see and to hear in TensorBoard while a model learns.

Suffixes: B notes, F N bins and frames, T samples.
"""

from collections.abc import Callable

from torch import Tensor

from mars_dist.config import SpectrogramConfig
from mars_dist.phase import wave_from_picture
from mars_dist.training.journal import Journal

SHOWN = 3


def show(
    journal: Journal,
    step: int,
    spectrogram: SpectrogramConfig,
    same: Callable[[], dict[str, Tensor]],
    **versions_B1FN: Tensor,
) -> None:
    """Each note's versions, such as original and reconstruction, as pictures and as sound.

    What `same` makes, (B, 1, F, N), is the same at each call: it is made and shown but once.
    """
    if not journal.has_shown:
        versions_B1FN = same() | versions_B1FN
        journal.has_shown = True
    for name, pictures_B1FN in versions_B1FN.items():
        waves_BT = wave_from_picture(pictures_B1FN, spectrogram).cpu()
        for i, (picture_1FN, wave_T) in enumerate(zip(pictures_B1FN.cpu(), waves_BT, strict=True)):
            journal.picture(f"note_{i}/{name}", step, picture_1FN[0].numpy())
            journal.sound(f"note_{i}/{name}", step, wave_T.numpy(), spectrogram.sample_rate)
