"""The training loop, the same for all stages, one worker or many."""

import math
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from mars_dist.config import OptimConfig, TrainConfig
from mars_dist.errors import TrainingFailed
from mars_dist.training import checkpoint, sharding
from mars_dist.training.batches import Batch, Timed
from mars_dist.training.checkpoint import Position
from mars_dist.training.journal import Journal
from mars_dist.training.optim import MovingAverage, learning_rate, make_optimizer
from mars_dist.training.run import Run


class Stage(Protocol):
    """What is trained: the tokenizer, the autoregressor or the classifier."""

    name: str

    @property
    def model(self) -> nn.Module: ...

    train: TrainConfig
    optim: OptimConfig

    def stream(self, first_step: int) -> Generator[Timed, None, None]:
        """This worker's batches from a step on."""

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted terms, whose sum is minimised."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer, average: MovingAverage) -> dict[str, float]:
        """What follows the optimizer's step; returns figures to log."""

    def memory(self) -> dict[str, Tensor]:
        """What the stage remembers from step to step, over all workers; every worker calls it."""

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Go on from that."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out rows; every worker calls it and gets the same."""

    def phase(self, step: int) -> int:
        """Which phase of training it is: figures of one phase do not compare with those of another."""

    def better(self, figures: dict[str, float], best: dict[str, float]) -> bool:
        """Whether the weights that were just measured are worth more than the best so far in this phase."""

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the model's folder, and show a few notes (rank 0 only)."""


def train(stage: Stage, run: Run) -> Position:
    """Train to the last step, from the newest checkpoint if there is one. Raises TrainingFailed on a bad loss."""
    config = stage.train
    model = sharding.shard(stage.model, config.precision)
    optimizer = make_optimizer(model, stage.optim)
    average = MovingAverage(model, stage.optim.ema)
    position = resume(stage, run, optimizer, average)
    journal = Journal(run.folder, stage.name, config.steps, position.step, run.say if run.rank == 0 else None)
    with closing(journal), closing(stage.stream(position.step)) as batches:
        while not position.ended(config):
            with journal.clock():
                batch, waited = next(batches)
                figures = update(stage, batch, position.step, optimizer)
                average.update(position.step)
                figures |= stage.after_step(position.step, optimizer, average)
            position.step += 1
            position.rows_seen += config.batch_size
            last = position.step == config.steps
            journal.waited += waited
            if position.step % config.log_every == 0 or last:
                journal.train(position.step, sharding.mean_over_workers(figures), config.batch_size)
            if position.step % config.validate_every == 0 or last:
                validate(stage, average, position, journal, run)
            if position.step % config.checkpoint_every == 0 or position.ended(config):
                write = partial(checkpoint.save, model, optimizer, average, stage.memory(), position)
                run.save(position.step, write, position.best)
    return position


def update(stage: Stage, batch: Batch, step: int, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """One step of the optimizer; returns the loss, its terms and the gradient's norm."""
    rate = learning_rate(step, stage.train.steps, stage.optim)
    for group in optimizer.param_groups:
        group["lr"] = rate
    terms = stage.losses(batch, step)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    norm = sharding.whole(nn.utils.clip_grad_norm_(stage.model.parameters(), stage.optim.clip)).item()
    if not math.isfinite(norm):  # the norm is over all workers: all stop here, before the weights are touched
        bad = {name: term.item() for name, term in terms.items()}
        raise TrainingFailed(
            f"{stage.name}: gradient norm {norm} at step {step}, terms on this worker: {bad}: try a lower --optim.lr"
        )
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss.item()} | {f"loss/{name}": term.item() for name, term in terms.items()} | {"norm": norm}


def validate(stage: Stage, average: MovingAverage, position: Position, journal: Journal, run: Run) -> None:
    """Measure the averaged weights; export them where they are the best so far."""
    stage.model.eval()
    with average.swapped_in(), torch.no_grad():
        figures = stage.validate()
        journal.validation(position.step, figures)
        if stage.phase(position.step) != position.phase:
            position.best, position.num_worse, position.phase = {}, 0, stage.phase(position.step)
        position.num_worse += 1
        if not position.best or stage.better(figures, position.best):
            position.best, position.num_worse = figures, 0
            weights = sharding.full_state_dict(stage.model)
            if run.rank == 0:
                stage.export(weights, figures, position.step, journal)
    stage.model.train()


def resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, average: MovingAverage) -> Position:
    with run.resume() as folder:
        if folder is None:
            return Position(seed=stage.train.seed)
        memory = stage.memory()
        position = checkpoint.load(folder, stage.model, optimizer, average, memory)
    stage.recall(memory)
    if position.seed != stage.train.seed:
        raise ValueError(f"train.seed: {stage.train.seed} differs from the checkpoint's {position.seed}: keep it")
    run.say(f"{stage.name}: resumed at step {position.step}, row {position.rows_seen}")
    return position
