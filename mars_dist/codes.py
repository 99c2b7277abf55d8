"""From shards of pictures to shards of codes, one job a shard: what each worker does, with or without a cluster.

Suffixes: B batch, C H W the multiplexed picture, C h w the latents, L codes over all scales.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mars_dist.addresses import Address
from mars_dist.cmx import recut
from mars_dist.config import SpectrogramConfig, TokenizerConfig
from mars_dist.dataset import Array, Columns, DatasetInfo, Shard, read_head, write_shard
from mars_dist.devices import own_device
from mars_dist.model import load_tokenizer, model_fingerprint
from mars_dist.products import packed
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.tokenizer import Tokenizer

LABELS = ("note_str", "pitch", "velocity", "instrument", "instrument_str", "family", "source", "qualities")


def arrays(config: TokenizerConfig) -> tuple[Array, ...]:
    """The array columns of a data set of codes."""
    return (
        Array("codes", (config.num_codes,), "uint16"),
        Array("latents", (config.code_width, *config.schedule.latent_grid), "float16"),
    )


def info_of(pictures: DatasetInfo, tokenizer: Address, config: TokenizerConfig) -> DatasetInfo:
    """What the dataset.json of the codes says."""
    fingerprint = model_fingerprint(tokenizer)
    return DatasetInfo(
        kind="codes",
        spectrogram=pictures.spectrogram,
        arrays=arrays(config),
        shards=tuple(replace(shard, fingerprint=f"{shard.fingerprint} {fingerprint}") for shard in pictures.shards),
        source=pictures.source,
        notice=pictures.notice,
        tokenizer=fingerprint,
        scales=config.scales,
        codebook_size=config.codebook_size,
    )


def encode_here(pictures: str, tokenizer: Address, out: str | Path) -> None:
    """Make a data set of codes in this process: the jobs that `mars encode` spreads over a cluster."""
    folder = Folder.open(out)
    source = DatasetInfo.load(Folder.open(pictures))
    info = info_of(source, tokenizer, load_tokenizer(tokenizer)[0].config)
    for shard in info.shards:
        make_shard(shard, source, pictures, tokenizer, info.tokenizer, folder)
    info.save(folder)


def make_shard(
    shard: Shard, source: DatasetInfo, pictures: str, tokenizer: Address, fingerprint: str | None, folder: Folder
) -> int:
    """Write the shard of codes, unless it is there already, made of the same pictures; returns the number of rows.

    `source` is what dataset.json says of the pictures; its other shards do not matter. Raises OSError where the disk
    refuses, ValueError where the pictures are damaged, or the tokenizer's folder holds another one by now than that of
    the fingerprint.
    """
    head = read_head(folder, shard.name)
    if (head.rows, head.fingerprint) == (shard.rows, shard.fingerprint):  # a note that was mended is one row more
        return shard.rows
    rows = Rows(pictures, shard.split, replace(source, shards=(shard,)))
    found = rows.in_turn(rows.groups, ["picture", *LABELS])
    parts = [encode_group(columns, rows.info.spectrogram, tokenizer, fingerprint) for columns in found]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    write_shard(folder, shard.name, columns, {"fingerprint": shard.fingerprint})
    return len(columns["codes"])


@torch.inference_mode()
def encode_group(
    columns: Columns, cut: SpectrogramConfig, tokenizer: Address, fingerprint: str | None = None
) -> Columns:
    """Codes and latents of a row group, whose pictures are as `cut` says, beside the notes' labels."""
    model, spectrogram = tokenizer_of(tokenizer, fingerprint)
    x_BCHW = torch.from_numpy(columns.pop("picture")).to(own_device()).float()
    f_BChw = model.latents(recut(x_BCHW, cut.cmx, spectrogram.cmx))
    codes_BL = model.quantizer.encode(f_BChw)
    return columns | {"codes": codes_BL.cpu().numpy().astype(np.uint16), "latents": f_BChw.half().cpu().numpy()}


@cache
def tokenizer_of(folder: Address, fingerprint: str | None = None) -> tuple[Tokenizer, SpectrogramConfig]:
    """Loaded once a process, with the settings of the pictures that it takes.

    Raises ValueError where the folder holds another one than that of the fingerprint.
    """
    tokenizer, run = load_tokenizer(folder)
    if fingerprint and model_fingerprint(folder) != fingerprint:
        raise ValueError(f"{folder}: has been trained on meanwhile: run the same command again")
    return packed(tokenizer.to(own_device())), run.spectrogram
