"""Training the tokenizer: the loss, and a codebook that is born from encoder outputs and kept alive.

Suffixes: B batch, C H W the multiplexed picture, F N bins and frames, L tokens over all scales, C code width (of
residuals), V codebook size, K scales.
"""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from mars_dist.cmx import demultiplex
from mars_dist.config import TokenizerRunConfig
from mars_dist.dataset import Columns, Rows, require_same
from mars_dist.losses import reconstruction_loss
from mars_dist.metrics.codebook import count_codes, usage
from mars_dist.metrics.reconstruction import mae, mse
from mars_dist.model import save_tokenizer
from mars_dist.spectrogram import griffin_lim
from mars_dist.tokenizer import Tokenizer
from mars_dist.training import sharding
from mars_dist.training.batches import Batch, Batches, Timed, share_of
from mars_dist.training.journal import Journal
from mars_dist.training.optim import MovingAverage
from mars_dist.training.run import Run

DEAD_SHARE = 0.03
"""A code that is looked up less often than this share of the mean is dead."""
SHOWN = 3
"""Notes shown in TensorBoard."""


class TokenizerStage:
    """What the loop trains when it trains a tokenizer. Raises ValueError where the data set does not fit."""

    name = "tokenizer"

    def __init__(self, config: TokenizerRunConfig, data: str, run: Run) -> None:
        self.config, self.train, self.optim, self.run = config, config.train, config.optim, run
        rows, held_out = require_fit(config, data, run.world_size)
        loader = (["picture"], prepare, self.train.batch_size, self.train.seed, self.train.shuffle_rows)
        self.batches, self.held_out = Batches(rows, *loader), Batches(held_out, *loader)
        torch.manual_seed(self.train.seed)
        self.model = Tokenizer(config.tokenizer, config.spectrogram, config.loss.commitment).to(run.device)
        self.residuals_BLC = torch.empty(0)
        self.hits_KV = self.no_hits()

    def stream(self, first_step: int) -> Generator[Timed, None, None]:
        return self.batches.stream(first_step, self.run.rank, self.run.world_size)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Before the codebook is born the decoder sees the latents, and the quantizer's loss counts for nothing."""
        x_BCHW = batch["picture"].to(self.run.device)
        born = step >= self.config.codebook.start_step
        y_BCHW, _, quantized = self.model(x_BCHW, not born)
        self.residuals_BLC = quantized.residuals_BLC
        self.hits_KV += count_codes(
            quantized.codes_BL, self.config.tokenizer.schedule, self.config.tokenizer.codebook_size
        )
        cmx = self.config.spectrogram.cmx
        terms = reconstruction_loss(
            demultiplex(y_BCHW.float(), cmx), demultiplex(x_BCHW, cmx), self.config.loss, self.config.spectrogram
        )
        return terms | {"quantizer": quantized.loss * float(born)}

    def after_step(self, step: int, optimizer: Optimizer, average: MovingAverage) -> dict[str, float]:
        """Bear the codebook, or restart its dead codes, when the time has come."""
        age = step + 1 - self.config.codebook.start_step
        if age == 0:
            every_code = torch.arange(self.config.tokenizer.codebook_size)
            self.restart(every_code, step, optimizer, average)
        elif age > 0 and age % self.config.codebook.restart_every == 0 and step < self.last_restart:
            hits_V = sharding.sum_over_workers(self.hits_KV).sum(0)
            dead_R = (hits_V < DEAD_SHARE * hits_V.mean()).nonzero()[:, 0]
            self.restart(dead_R, step, optimizer, average)
        return {}

    @property
    def last_restart(self) -> float:
        return self.config.codebook.restart_until * self.train.steps

    def restart(self, codes_R: Tensor, step: int, optimizer: Optimizer, average: MovingAverage) -> None:
        """Draw codes from what this step's global batch looked up, in its order, whatever the number of workers."""
        residuals_NC = sharding.gather(self.residuals_BLC).flatten(0, 1)
        generator = torch.Generator().manual_seed((self.train.seed * 1_000_003 + step) % 2**32)
        drawn = torch.randperm(len(residuals_NC), generator=generator)[: len(codes_R)]
        codes_R, values_RC = codes_R[: len(drawn)], residuals_NC[drawn.to(residuals_NC.device)]
        codebook = self.model.quantizer.codebook_VC
        sharding.write_rows(codebook, codes_R, values_RC)
        sharding.write_rows(average.averages["quantizer.codebook_VC"], codes_R, values_RC)
        for moment in ("exp_avg", "exp_avg_sq"):
            sharding.write_rows(optimizer.state[codebook][moment], codes_R, 0.0)
        self.hits_KV = self.no_hits()

    def memory(self) -> dict[str, Tensor]:
        """How often each code was looked up since the last restart."""
        return {"hits_KV": sharding.sum_over_workers(self.hits_KV.clone())}

    def recall(self, memory: dict[str, Tensor]) -> None:
        self.hits_KV = memory["hits_KV"] if self.run.rank == 0 else self.no_hits()

    def validate(self) -> dict[str, float]:
        """Errors on held-out pictures, and the codebook's use at each scale and over all."""
        batch = self.held_out.evenly(self.train.validation_rows, self.run.rank, self.run.world_size)
        errors: list[Tensor] = []
        hits_KV = self.no_hits()
        for x_BCHW in batch["picture"].to(self.run.device).split(self.train.batch_size):
            y_BCHW, _, quantized = self.model(x_BCHW)
            errors.append(torch.stack([mse(y_BCHW.float(), x_BCHW), mae(y_BCHW.float(), x_BCHW)]))
            hits_KV += count_codes(quantized.codes_BL, self.config.tokenizer.schedule, hits_KV.shape[1])
        mse_mean, mae_mean = torch.cat(errors, dim=1).mean(1).tolist()
        figures = sharding.mean_over_workers({"mse": mse_mean, "mae": mae_mean})
        health = usage(sharding.sum_over_workers(hits_KV), self.config.tokenizer.schedule)
        return figures | {f"codebook/{name}": value for name, value in health.items()}

    def score(self, figures: dict[str, float]) -> float:
        return figures["mse"]

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the folder; show and sound a few held-out notes with and without the tokenizer."""
        save_tokenizer(Path(self.run.folder), weights, self.config, {"step": step} | figures)
        plain = Tokenizer(self.config.tokenizer, self.config.spectrogram)
        plain.load_state_dict(weights)
        x_BCHW = self.held_out.evenly(SHOWN, 0, 1)["picture"]
        spectrogram = self.config.spectrogram
        for name, pictures_BCHW in (("original", x_BCHW), ("reconstruction", plain(x_BCHW).picture_BCHW)):
            pictures_B1FN = demultiplex(pictures_BCHW, spectrogram.cmx)
            for i, (picture_1FN, wave_T) in enumerate(
                zip(pictures_B1FN, griffin_lim(pictures_B1FN, spectrogram), strict=True)
            ):
                journal.picture(f"note_{i}/{name}", step, picture_1FN[0].numpy())
                journal.sound(f"note_{i}/{name}", step, wave_T.numpy(), spectrogram.sample_rate)

    def no_hits(self) -> Tensor:
        return torch.zeros(
            len(self.config.tokenizer.scales), self.config.tokenizer.codebook_size, device=self.run.device
        )


def require_fit(config: TokenizerRunConfig, data: str, workers: int) -> tuple[Rows, Rows]:
    """The rows to train on and to validate with. Raises ValueError where data, settings and workers do not fit."""
    share_of(config.train.batch_size, workers)
    rows = Rows(data, "train")
    if rows.info.kind != "pictures":
        raise ValueError(f"{data}: holds {rows.info.kind}, not pictures: give the --out of mars preprocess")
    require_same(config.spectrogram, rows.info)
    return rows, Rows(data, "valid")


def prepare(columns: Columns) -> Batch:
    return {"picture": torch.from_numpy(columns["picture"].astype(np.float32))}
