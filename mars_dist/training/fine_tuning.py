"""Starting from the weights of a trained model instead of random ones (`--init-from`)."""

from dataclasses import replace

import torch
from torch import Tensor

from mars_dist.addresses import Address
from mars_dist.autoregressor import Autoregressor
from mars_dist.conditions import Vocabulary
from mars_dist.config import AutoregressorRunConfig, TokenizerConfig, TokenizerRunConfig
from mars_dist.fetched import on_disk
from mars_dist.model import TOKENIZER, Mars, load_tokenizer, read_config, read_tokenizer_run
from mars_dist.serialize import first_difference, from_plain, to_plain
from mars_dist.tokenizer import Tokenizer

INSTRUMENTS = "conditions.instrument.weight"
SHAPE = (
    "width",
    "depth",
    "head_width",
    "positions",
    "modulation",
    "condition_on_instrument",
    "condition_on_qualities",
)
"""The settings of an autoregressor that decide its weights; the others may be other ones in fine-tuning."""


def require_same_tokenizer(folder: Address, config: TokenizerRunConfig) -> None:
    """Raises ValueError where the folder holds no tokenizer of the same shape as the one to be trained."""
    before = read_tokenizer_run(folder)
    require_same(folder, before.spectrogram, config.spectrogram, "spectrogram")
    require_same(folder, shape_of(before.tokenizer), shape_of(config.tokenizer), "tokenizer")


def require_same_autoregressor(folder: Address, config: AutoregressorRunConfig, tokenizer: Address) -> None:
    """Raises ValueError where the folder holds no autoregressor of the same shape, for codes of the same shape."""
    before = from_plain(AutoregressorRunConfig, read_config(folder, "autoregressor")["run"])
    shape = {name: getattr(config.autoregressor, name) for name in SHAPE}
    require_same(folder, before.autoregressor, replace(before.autoregressor, **shape), "autoregressor")
    its, used = (shape_of(read_tokenizer_run(path).tokenizer) for path in (on_disk(folder) / TOKENIZER, tokenizer))
    require_same(folder, its, used, "tokenizer")


def shape_of(tokenizer: TokenizerConfig) -> TokenizerConfig:
    """Its settings with one way of choosing codes for all, which decides no weights."""
    return replace(tokenizer, last_scale="nearest")


def require_same(folder: Address, before: object, now: object, section: str) -> None:
    difference = first_difference(to_plain(before), to_plain(now), section)
    if difference:
        raise ValueError(f"--init-from {folder}: its model has {difference}: use its settings, or leave it out")


def start_tokenizer(tokenizer: Tokenizer, folder: Address) -> None:
    """Give a tokenizer the averaged weights of a folder's. Raises ValueError where these are damaged."""
    tokenizer.load_state_dict(load_tokenizer(folder)[0].state_dict())


def start_autoregressor(autoregressor: Autoregressor, vocabulary: Vocabulary, folder: Address) -> None:
    """Give an autoregressor the averaged weights of a folder's; instruments are matched by name, new ones are new.

    Raises ValueError where these are damaged.
    """
    mars, own = Mars.from_pretrained(folder), autoregressor.state_dict()
    weights = mars.autoregressor.state_dict()
    if INSTRUMENTS in own:
        tables = (own[INSTRUMENTS], vocabulary.instruments, weights[INSTRUMENTS], mars.vocabulary.instruments)
        weights[INSTRUMENTS] = matched(*tables)
    autoregressor.load_state_dict(weights)


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
