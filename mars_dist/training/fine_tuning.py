"""Starting from the weights of a trained model instead of random ones (`--init-from`)."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import Vocabulary
from mars_dist.config import AutoregressorRunConfig, TokenizerRunConfig
from mars_dist.model import CONFIG, TOKENIZER, WEIGHTS, read_config
from mars_dist.serialize import first_difference, from_plain, to_plain
from mars_dist.tokenizer import Tokenizer

INSTRUMENTS = "conditions.instrument.weight"


def require_same_model(folder: Path, config: TokenizerRunConfig | AutoregressorRunConfig) -> None:
    """Raises ValueError where the folder's model is of another kind or shape than the one to be trained."""
    parts = ("spectrogram", "tokenizer") if isinstance(config, TokenizerRunConfig) else ("autoregressor",)
    kind = parts[-1]
    before = read_config(folder, kind)["run"]
    now: dict[str, Any] = to_plain(config)
    for part in parts:
        difference = first_difference(before[part], now[part], part)
        if difference:
            raise ValueError(f"--init-from {folder}: its model has {difference}: use its settings, or leave it out")


def start_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Give a tokenizer the averaged weights of a folder's."""
    tokenizer.load_state_dict(load_file(folder / WEIGHTS))


def start_autoregressor(autoregressor: Autoregressor, vocabulary: Vocabulary, folder: Path) -> None:
    """Give an autoregressor the averaged weights of a folder's; instruments are matched by name, new ones are new.

    Raises ValueError where the tokenizers' codes or the conditions differ in number.
    """
    weights = load_file(folder / WEIGHTS)
    own = autoregressor.state_dict()
    if INSTRUMENTS in own and INSTRUMENTS in weights:
        before = from_plain(Vocabulary, read_config(folder, "autoregressor")["vocabulary"])
        weights[INSTRUMENTS] = matched(
            own[INSTRUMENTS], vocabulary.instruments, weights[INSTRUMENTS], before.instruments
        )
    for name, tensor in own.items():
        if name not in weights or weights[name].shape != tensor.shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise ValueError(
                f"--init-from {folder}: has {found} for {name}, wanted is {tuple(tensor.shape)}: "
                f"its tokenizer ({folder / TOKENIZER / CONFIG}) and conditions must have the shape of those in use"
            )
    autoregressor.load_state_dict({name: weights[name] for name in own})


def matched(own_ND: Tensor, own_names: tuple[str, ...], other_ND: Tensor, other_names: tuple[str, ...]) -> Tensor:
    """The own table, with the other's rows for names that both have, and its null in the last row."""
    table_ND = own_ND.clone()
    place = {name: i for i, name in enumerate(other_names)}
    with torch.no_grad():
        for i, name in enumerate(own_names):
            if name in place:
                table_ND[i] = other_ND[place[name]]
        table_ND[-1] = other_ND[-1]
    return table_ND
