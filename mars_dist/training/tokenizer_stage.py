"""Training the tokenizer: the loss, and a codebook that is born from encoder outputs and kept alive.

Suffixes: B batch, C H W the multiplexed picture, F N bins and frames, L codes over all scales, V codebook size, K
scales; with product branches and several codebooks: c code width of a branch, W the V of all branches, N codebooks, R
rows of all codebooks, M residuals.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from mars_dist.addresses import Address
from mars_dist.cmx import demultiplex, recut
from mars_dist.config import FEWEST_SCALES, ClassifierRunConfig, TokenizerRunConfig
from mars_dist.dataset import Columns, require_pictures
from mars_dist.losses import reconstruction_loss
from mars_dist.metrics.codebook import advice, count_codes, scale_names, summary, usage
from mars_dist.metrics.reconstruction import mae, mse
from mars_dist.model import save_tokenizer
from mars_dist.rows import Rows
from mars_dist.scales import Size
from mars_dist.tokenizer import Tokenizer
from mars_dist.training import sharding
from mars_dist.training.adversary import Adversary
from mars_dist.training.batches import Batch, Batches, HeldOut, keyed_uniform, rows_at_once
from mars_dist.training.fine_tuning import start_tokenizer
from mars_dist.training.journal import Journal
from mars_dist.training.loop import Stage
from mars_dist.training.optim import MovingAverage
from mars_dist.training.run import Run
from mars_dist.training.shown import SHOWN, show


class TokenizerStage(Stage):
    """What the loop trains when it trains a tokenizer. Raises ValueError where the data set does not fit."""

    name = "tokenizer"

    def __init__(self, config: TokenizerRunConfig, data: str, run: Run, init_from: Address | None = None) -> None:
        self.config, self.train, self.optim, self.run = config, config.train, config.optim, run
        self.judged_by = config.judged_by
        rows, held_out = require_fit(config, data)
        cut_anew = partial(prepare, before=rows.info.spectrogram.cmx, after=config.spectrogram.cmx)
        self.batches = Batches(rows, ["picture"], cut_anew, self.train)
        self.held_out = HeldOut(held_out, ["picture"], cut_anew)
        torch.manual_seed(self.train.seed)
        self.settings = config.codebook
        self.model: Tokenizer = sharding.on_rank_0(
            lambda: Tokenizer(config.tokenizer, config.spectrogram, config.codebook)
        )
        if init_from:
            if run.rank == 0:
                start_tokenizer(self.model, init_from)
            self.settings = replace(self.settings, start_step=0)  # its codebook was born long ago
        torch.manual_seed(self.train.seed + 1)  # rank 0 alone has drawn a tokenizer's weights before
        precision = sharding.agreed_precision(config.train.precision, run.device)
        self.adversary = Adversary(config.adversary, precision, run.device) if config.adversary.weight else None
        self.residuals: list[Tensor] = []
        self.hits_KW = self.no_hits()
        self.born = False
        self.num_restarted_N = torch.zeros(len(self.hits_by_codebook()), dtype=torch.long)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Before the codebook is born the decoder sees the latents, and the quantizer's loss counts for nothing."""
        x_BCHW = batch["picture"].to(self.run.device, non_blocking=True).float()
        self.born = step >= self.settings.start_step
        y_BCHW, _, quantized = self.model(x_BCHW, not self.born, self.num_scales(batch["place"], step))
        self.residuals.append(quantized.residuals_BLc)
        self.hits_KW += count_codes(quantized.codes_BL, self.config.tokenizer)
        y_B1FN, x_B1FN = (demultiplex(picture, self.config.spectrogram.cmx) for picture in (y_BCHW.float(), x_BCHW))
        terms = reconstruction_loss(y_B1FN, x_B1FN, self.config.loss, self.config.spectrogram)
        if self.adversary and self.adversary_takes_part(step):
            terms |= self.adversary.terms(y_B1FN, x_B1FN, torch.stack(list(terms.values())).sum())
        return terms | {"quantizer": quantized.loss * float(self.born)}

    def num_scales(self, places_B: Tensor, step: int) -> Tensor | None:
        """Quantizer dropout: how many scales of each note are used, from the third on; None where there is none."""
        if self.settings.dropout == 0:
            return None
        num_scales = len(self.config.tokenizer.scales)
        drops_B, which_B = keyed_uniform(self.train.seed, step, places_B, 2).T
        drawn_B = FEWEST_SCALES + (which_B * (num_scales - FEWEST_SCALES + 1)).long()
        return torch.where(drops_B < self.settings.dropout, drawn_B, num_scales).to(self.run.device)

    def after_step(self, step: int, optimizer: Optimizer, average: MovingAverage) -> dict[str, float]:
        """Let the adversary learn; bear the codebook, or restart its dead codes, when the time has come."""
        age = step + 1 - self.settings.start_step
        due = self.settings.restart_every and age > 0 and age % self.settings.restart_every == 0
        if age == 0:
            self.restart(torch.ones_like(self.hits_by_codebook(), dtype=torch.bool), step, optimizer, average)
        elif due and step < self.settings.restart_until * self.train.steps:
            hits_NV = self.hits_by_codebook()
            dead_NV = hits_NV < self.settings.dead_share * hits_NV.mean(1, keepdim=True)
            self.num_restarted_N += self.restart(dead_NV, step, optimizer, average)
        self.residuals.clear()
        figures = {"restarts": float(self.num_restarted_N.sum())}
        if self.config.tokenizer.codebooks == "per_scale":
            of_scales_K = self.num_restarted_N.view(len(self.config.tokenizer.scales), -1).sum(1)
            named = zip(scale_names(self.config.tokenizer), of_scales_K.tolist(), strict=True)
            figures |= {f"codebook/restarts_{name}": float(num) for name, num in named}
        if self.adversary:
            schedule = optimizer.param_groups[0]["lr"] / self.optim.lr
            figures |= self.adversary.learn(self.config.adversary.lr * schedule, self.train.batch_size)
        return figures

    def hits_by_codebook(self) -> Tensor:
        """(N, V): how often the codes of each codebook were looked up since the last restart, by all workers."""
        hits_KW = sharding.sum_over_workers(self.hits_KW.clone())
        if self.config.tokenizer.codebooks == "shared":
            hits_KW = hits_KW.sum(0, keepdim=True)
        return hits_KW.view(-1, self.config.tokenizer.codebook_size)

    def restart(self, dead_NV: Tensor, step: int, optimizer: Optimizer, average: MovingAverage) -> Tensor:
        """Draw codes from what this step's global batch looked up, in its order, whatever the number of workers.

        Returns how many of each codebook (N,): of the dead ones no more than were vectors looked up.
        """
        residuals_BLc = sharding.gather(torch.cat(self.residuals))
        generator = torch.Generator().manual_seed((self.train.seed * 1_000_003 + step) % 2**32)
        rows, values = [], []
        for book, dead_V in enumerate(dead_NV):
            scale, branch = divmod(book, self.config.tokenizer.branches)
            span = self.config.tokenizer.code_spans[scale] if self.config.tokenizer.num_codebooks > 1 else slice(None)
            looked_up_Mc = residuals_BLc[:, span][:, branch :: self.config.tokenizer.branches].flatten(0, 1)
            dead = dead_V.nonzero()[:, 0]
            num = min(len(dead), len(looked_up_Mc))
            drawn, which = (torch.randperm(len(x), generator=generator)[:num] for x in (looked_up_Mc, dead))
            rows.append(book * len(dead_V) + dead[which.to(dead.device)])
            values.append(looked_up_Mc[drawn.to(dead.device)])
        self.write_codes(torch.cat(rows), torch.cat(values), optimizer, average)
        self.hits_KW = self.no_hits()
        return torch.tensor([len(rows_R) for rows_R in rows])

    def write_codes(self, rows_R: Tensor, values_Rc: Tensor, optimizer: Optimizer, average: MovingAverage) -> None:
        """Write rows of the codebook, trained and averaged, and forget what the optimizer knew of them."""
        codebook, projection = "quantizer.codebook_Rc", "quantizer.projection.weight"
        for parameters in (average.parameters, average.averages):
            written_Rc = values_Rc
            if projection in parameters:  # the vectors that it maps to these values
                inverse_cc = torch.linalg.pinv(sharding.whole(parameters[projection].detach()), rtol=1e-3)
                written_Rc = values_Rc @ inverse_cc.T
            sharding.write_rows(parameters[codebook], rows_R, written_Rc)
        for moment in ("exp_avg", "exp_avg_sq"):
            sharding.write_rows(optimizer.state[average.parameters[codebook]][moment], rows_R, 0.0)

    def memory(self) -> dict[str, Tensor]:
        """How often each code was looked up since the last restart, how many were restarted, and the adversary."""
        counts = {
            "hits_KW": sharding.sum_over_workers(self.hits_KW.clone()),
            "num_restarted_N": self.num_restarted_N.clone(),
        }
        return counts | (self.adversary.memory() if self.adversary else {})

    def recall(self, memory: dict[str, Tensor]) -> None:
        self.hits_KW = memory["hits_KW"] if self.run.rank == 0 else self.no_hits()
        self.num_restarted_N = memory["num_restarted_N"]

    def validate(self) -> dict[str, float]:
        """Errors on held-out pictures, and the codebook's use at each scale and over all."""
        batch = self.held_out.evenly(self.train.validation_rows, self.run.rank, self.run.world_size)
        errors: list[Tensor] = []
        hits_KW = self.no_hits()
        for part_BCHW in batch["picture"].to(self.run.device).split(rows_at_once(self.train, self.run.world_size)):
            x_BCHW = part_BCHW.float()
            y_BCHW, _, quantized = self.model(x_BCHW)
            errors.append(torch.stack([mse(y_BCHW.float(), x_BCHW), mae(y_BCHW.float(), x_BCHW)]))
            hits_KW += count_codes(quantized.codes_BL, self.config.tokenizer)
        mse_mean, mae_mean = torch.cat(errors, dim=1).mean(1).tolist()
        figures = sharding.mean_over_workers({"mse": mse_mean, "mae": mae_mean})
        health = usage(sharding.sum_over_workers(hits_KW), self.config.tokenizer)
        if self.born:
            self.run.say(f"{self.name}: {summary(health, self.config.tokenizer)}")
            if warning := advice(health, self.config.tokenizer):
                self.run.say(f"{self.name}: {warning}")
        figures |= {"usage": health["usage_all"], "perplexity": health["perplexity_all"]}
        return figures | {f"codebook/{name}": value for name, value in health.items()}

    def phase(self, step: int) -> int:
        """Latents alone, codes, codes with an adversary."""
        return (step >= self.settings.start_step) + self.adversary_takes_part(step)

    def adversary_takes_part(self, step: int) -> bool:
        return self.adversary is not None and step >= self.config.adversary.start * self.train.steps

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the folder; show and sound a few held-out notes with and without the tokenizer."""
        save_tokenizer(self.run.folder, weights, self.config, {"step": step} | figures)
        plain = Tokenizer(self.config.tokenizer, self.config.spectrogram).to(self.run.device)
        plain.load_state_dict(weights)
        x_BCHW = self.held_out.evenly(SHOWN, 0, 1)["picture"].to(self.run.device).float()
        spectrogram = self.config.spectrogram
        reconstruction = demultiplex(plain(x_BCHW).picture_BCHW, spectrogram.cmx)
        original = lambda: {"original": demultiplex(x_BCHW, spectrogram.cmx)}  # noqa: E731
        show(journal, step, spectrogram, original, reconstruction=reconstruction)

    def no_hits(self) -> Tensor:
        settings = self.config.tokenizer
        return torch.zeros(len(settings.scales), settings.branches * settings.codebook_size, device=self.run.device)


def require_fit(config: TokenizerRunConfig | ClassifierRunConfig, data: str) -> tuple[Rows, Rows]:
    """The rows to train on and to validate with. Raises ValueError where data and settings do not fit."""
    rows = Rows(data, "train")
    require_pictures(config.spectrogram, rows.info, data)
    return rows, Rows(data, "valid", rows.info)


def prepare(columns: Columns, before: Size, after: Size) -> Batch:
    """Pictures with the channels that the tokenizer takes, whatever CMX they are stored with; in 16 bits, as they are
    stored, which is half as much to hold and to send to a GPU."""
    return {"picture": recut(torch.from_numpy(columns["picture"]), before, after)}
