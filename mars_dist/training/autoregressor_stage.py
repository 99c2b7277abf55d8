"""Training the autoregressor on cached codes and latents.

Suffixes: B batch, L codes over all scales, k the codes of one scale, C code width, h w the latent grid, K scales, V
codebook size, N blocks, conditions or near codes, U random numbers of a row.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from mars_dist.addresses import Address
from mars_dist.autoregressor import Autoregressor, accuracy_per_scale, cross_entropy_per_scale, mean_per_scale
from mars_dist.conditions import QUALITY_CONDITIONS, UNASKED, Vocabulary
from mars_dist.config import AutoregressorConfig, AutoregressorRunConfig
from mars_dist.dataset import Columns
from mars_dist.histogram import Histogram
from mars_dist.metrics.codebook import scale_names
from mars_dist.model import (
    Mars,
    keep_tokenizer,
    load_tokenizer,
    model_fingerprint,
    read_config,
    save_autoregressor,
)
from mars_dist.rows import Rows
from mars_dist.sampling import SamplingConfig
from mars_dist.training import sharding
from mars_dist.training.batches import Batch, Batches, HeldOut, keyed_uniform, rows_at_once
from mars_dist.training.fine_tuning import start_autoregressor
from mars_dist.training.journal import Journal
from mars_dist.training.loop import Stage
from mars_dist.training.run import Run
from mars_dist.training.shown import SHOWN, show

NEAR = 8
"""A corrupted code is one of this many nearest ones."""
FIGURES = (cross_entropy_per_scale, accuracy_per_scale)
"""Of validation."""


class AutoregressorStage(Stage):
    """What the loop trains when it trains an autoregressor. Raises ValueError where codes and tokenizer do not fit."""

    name = "autoregressor"

    def __init__(
        self, config: AutoregressorRunConfig, tokenizer: Address, data: str, run: Run, init_from: Address | None = None
    ) -> None:
        self.config, self.train, self.optim, self.run = config, config.train, config.optim, run
        self.judged_by = config.judged_by
        rows, held_out = require_fit(tokenizer, data)
        if run.rank == 0:  # now, since by the time weights are exported it may have been trained on
            keep_tokenizer(run.folder, tokenizer)
        whole_tokenizer, tokenizer_run = load_tokenizer(tokenizer)
        self.code_spans = tokenizer_run.tokenizer.code_spans
        self.quantizer, self.spectrogram = whole_tokenizer.quantizer.to(run.device), tokenizer_run.spectrogram
        self.areas_K = torch.tensor([float(size.area) for size in self.quantizer.schedule.sizes], device=run.device)
        # Rank 0 alone reads all labels: many workers would ask a store for many times as much.
        vocabulary = Vocabulary()
        self.histogram: Histogram | None = None
        if run.rank == 0:
            vocabulary, self.histogram = counted(rows, config.autoregressor)
        self.vocabulary = sharding.gather_objects(vocabulary)[0]
        columns = ["codes", *labels(config.autoregressor)]
        # Latents are most of a row, and serve only where codes are to be corrupted.
        corrupted = ["latents"] * (config.autoregressor.corrupt_codes > 0)
        self.batches = Batches(rows, [*columns, *corrupted], self.prepare, self.train)
        self.held_out = HeldOut(held_out, columns, self.prepare)
        torch.manual_seed(self.train.seed)
        cardinalities = self.vocabulary.cardinalities
        self.model: Autoregressor = sharding.on_rank_0(
            lambda: Autoregressor(config.autoregressor, tokenizer_run.tokenizer, cardinalities)
        )
        if init_from and run.rank == 0:
            start_autoregressor(self.model, self.vocabulary, init_from)

    def prepare(self, columns: Columns) -> Batch:
        of_dtype = {"codes": np.int64, "latents": np.float32}
        arrays = {
            name: torch.from_numpy(columns[name].astype(dtype)) for name, dtype in of_dtype.items() if name in columns
        }
        return arrays | self.vocabulary.of_rows(columns)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Cross-entropy over all tokens; all that is random is keyed by (seed, step, place in the global batch)."""
        places_B = batch["place"].to(self.run.device, non_blocking=True)
        noise = partial(keyed_uniform, self.train.seed, step, places_B)
        settings, conditions, codes_BL = self.config.autoregressor, self.conditions_of(batch), batch["codes"]
        conditions = self.drop_conditions(conditions, noise(2 + len(conditions), stream=0))
        if settings.corrupt_codes > 0:
            latents_BChw = batch["latents"].to(self.run.device, non_blocking=True)
            codes_BL, inputs_BLC = self.corrupt(latents_BChw, noise(1 + 2 * codes_BL.shape[1], stream=1))
        else:
            codes_BL = codes_BL.to(self.run.device, non_blocking=True)
            with torch.no_grad():
                inputs_BLC = self.quantizer.next_inputs(codes_BL)
        keep_BN = keep_blocks(noise(settings.depth, stream=2), settings.drop_path) if settings.drop_path > 0 else None
        nats_K = mean_per_scale(self.model(inputs_BLC, conditions, keep_BN, codes_BL), self.code_spans)
        return {"cross_entropy": self.mean_over_scales(nats_K, settings.scale_weight)}

    def validate(self) -> dict[str, float]:
        """The loss, cross-entropy and accuracy on held-out notes, over all tokens and at each scale."""
        batch = self.held_out.evenly(self.train.validation_rows, self.run.rank, self.run.world_size)
        sums_2K = torch.zeros(2, len(self.quantizer.schedule), device=self.run.device)
        num_rows, at_once = len(batch["codes"]), rows_at_once(self.train, self.run.world_size)
        for start in range(0, num_rows, at_once):
            part = {name: values[start : start + at_once] for name, values in batch.items()}
            codes_BL = part["codes"].to(self.run.device)
            logits_BLV = self.model(self.quantizer.next_inputs(codes_BL), self.conditions_of(part))
            figures_K = (per_scale(logits_BLV, codes_BL, self.code_spans) for per_scale in FIGURES)
            sums_2K += torch.stack(list(figures_K)) * len(codes_BL) / num_rows
        nats_K, hits_K = sums_2K
        figures = {
            "loss": self.mean_over_scales(nats_K, self.config.autoregressor.scale_weight),
            "cross_entropy": self.mean_over_scales(nats_K),
            "accuracy": self.mean_over_scales(hits_K),
        }
        for name, nats, hits in zip(scale_names(self.quantizer.config), nats_K, hits_K, strict=True):
            figures |= {f"scales/cross_entropy_{name}": nats, f"scales/accuracy_{name}": hits}
        return sharding.mean_over_workers({name: value.item() for name, value in figures.items()})

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the folder; show and sound samples that are asked for as some held-out notes are."""
        metrics = {"step": step} | figures
        folder, vocabulary, histogram = self.run.folder, self.vocabulary, self.histogram
        assert histogram, "on rank 0 alone"
        save_autoregressor(folder, weights, self.config, vocabulary, histogram, metrics)
        # A few notes are not worth a copy of the weights beside all that a training holds.
        mars = Mars.from_pretrained(folder, self.run.device, pack=False)
        shown = self.held_out.evenly(SHOWN, 0, 1)
        conditions = {name: shown[name] for name in self.vocabulary.cardinalities}
        sample = mars.sample_pictures(conditions, list(range(len(shown["codes"]))), SamplingConfig())
        reconstruction = lambda: {"reconstruction": mars.decode(shown["codes"])}  # noqa: E731
        show(journal, step, self.spectrogram, reconstruction, sample=sample)

    def conditions_of(self, batch: Batch) -> dict[str, Tensor]:
        return {name: batch[name].to(self.run.device, non_blocking=True) for name in self.vocabulary.cardinalities}

    def drop_conditions(self, conditions: dict[str, Tensor], uniform_BN: Tensor) -> dict[str, Tensor]:
        """All conditions of some rows, and single ones of others: so any subset can be asked for later.

        The qualities count as one as well: they are also dropped together.
        """
        settings = self.config.autoregressor
        all_B = uniform_BN[:, 0] < settings.drop_all_conditions
        *each, qualities_B = (uniform_BN[:, 1:] < settings.drop_each_condition).T
        all_of = dict.fromkeys(QUALITY_CONDITIONS.values(), all_B | qualities_B)
        return {
            name: values_B.masked_fill(alone_B | all_of.get(name, all_B), UNASKED)
            for (name, values_B), alone_B in zip(conditions.items(), each, strict=True)
        }

    @torch.no_grad()
    def corrupt(self, f_BChw: Tensor, uniform_BU: Tensor) -> tuple[Tensor, Tensor]:
        """Self-correction (Infinity, arXiv 2412.04431, section 3.4): inputs with some codes swapped for near ones.

        Returns targets (B, L), the codes for what is really missing at each scale, and inputs (B, L - 1, C).
        """
        rate_B1 = self.config.autoregressor.corrupt_codes * uniform_BU[:, :1]
        swap_BL, which_BL = uniform_BU[:, 1:].chunk(2, dim=1)
        num_near = min(NEAR, self.quantizer.config.codebook_size)
        targets = []

        def choose(k: int, f_hat_BChw: Tensor) -> Tensor:
            span = self.code_spans[k]
            z_BkC = self.quantizer.residual(k, f_BChw, f_hat_BChw)
            near_BkN = self.quantizer.nearest_several(k, z_BkC, num_near)
            targets.append(self.quantizer.fitted(k, z_BkC, near_BkN[..., 0]))
            other_Bk1 = (which_BL[:, span, None] * num_near).long()
            return torch.where(swap_BL[:, span] < rate_B1, near_BkN.gather(-1, other_Bk1)[..., 0], targets[-1])

        inputs_BLC = self.quantizer.inputs_along(choose, len(f_BChw))
        return torch.cat(targets, dim=1), inputs_BLC

    def mean_over_scales(self, figures_K: Tensor, scale_weight: float = 1.0) -> Tensor:
        """The mean weighted by each scale's tokens to the power of `scale_weight`."""
        weights_K = self.areas_K**scale_weight
        return (figures_K * weights_K).sum() / weights_K.sum()


def counted(rows: Rows, config: AutoregressorConfig) -> tuple[Vocabulary, Histogram]:
    """What notes can be asked for, and how often the data set has each of it."""
    columns = rows.read(labels(config))
    instruments = np.unique(columns["instrument_str"]).tolist() if config.condition_on_instrument else ()
    vocabulary = Vocabulary(tuple(instruments), config.condition_on_qualities)
    return vocabulary, Histogram.of(vocabulary.of_rows(columns))


def labels(config: AutoregressorConfig) -> list[str]:
    """The columns that conditions follow from, and no others: they would be a fifth of the time of reading."""
    instrument, qualities = config.condition_on_instrument, config.condition_on_qualities
    return ["pitch", "velocity", "family", "source", *["instrument_str"] * instrument, *["qualities"] * qualities]


def keep_blocks(uniform_BN: Tensor, drop_path: float) -> Tensor:
    """(B, N): 0 where a row skips a block, else 1 / its chance to be kept; the chance to skip grows with the block."""
    chance_N = torch.linspace(0, drop_path, uniform_BN.shape[1], device=uniform_BN.device)
    return (uniform_BN >= chance_N) / (1 - chance_N)


def require_fit(tokenizer: Address, data: str) -> tuple[Rows, Rows]:
    """The rows to train on and to validate with. Raises ValueError where codes and tokenizer do not fit."""
    rows = Rows(data, "train")
    if rows.info.kind != "codes":
        raise ValueError(f"{data}: holds {rows.info.kind}, not codes: run mars encode first and give its --out")
    read_config(tokenizer, "tokenizer")
    if rows.info.tokenizer != model_fingerprint(tokenizer):
        raise ValueError(
            f"{data}: these codes were made by another tokenizer than {tokenizer}: "
            "run mars encode with this tokenizer into another folder"
        )
    return rows, Rows(data, "valid", rows.info)
