"""The training loop, the same for all stages, one worker or many."""

import math
from contextlib import closing
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from mars_dist.config import OptimConfig, TrainConfig
from mars_dist.errors import TrainingFailed
from mars_dist.training import checkpoint, sharding
from mars_dist.training.batches import Batch, Batches, parts_of
from mars_dist.training.checkpoint import Position
from mars_dist.training.journal import Journal
from mars_dist.training.optim import MovingAverage, learning_rate, make_optimizer
from mars_dist.training.run import Run, Wish
from mars_dist.training.watchdog import watchdog


class Stage(Protocol):
    """What is trained: the tokenizer, the autoregressor or the classifier. Most have nothing to remember."""

    name: str
    model: nn.Module
    train: TrainConfig
    optim: OptimConfig
    batches: Batches
    judged_by: str | None
    """The figure of validation that the best weights have the least of; None: the newest are the best."""

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted terms, whose sum is minimised: means over the rows of a worker's batch, or of a part of it."""

    def after_step(self, step: int, optimizer: torch.optim.Optimizer, average: MovingAverage) -> dict[str, float]:
        """What follows the optimizer's step; returns figures to log."""
        return {}

    def memory(self) -> dict[str, Tensor]:
        """What the stage remembers from step to step, over all workers; every worker calls it."""
        return {}

    def recall(self, memory: dict[str, Tensor]) -> None:
        """Go on from that."""
        return

    def validate(self) -> dict[str, float]:
        """Figures on held-out rows; every worker calls it and gets the same."""

    def phase(self, step: int) -> int:
        """Which phase of training it is: figures of one phase do not compare with those of another."""
        return 0

    def better(self, figures: dict[str, float], best: dict[str, float]) -> bool:
        """Whether the weights that were just measured are worth more than the best so far in this phase."""
        return self.judged_by is None or figures[self.judged_by] < best[self.judged_by]

    def export(self, weights: dict[str, Tensor], figures: dict[str, float], step: int, journal: Journal) -> None:
        """Write the model's folder, and show a few notes (rank 0 only)."""


def train(stage: Stage, run: Run) -> Position:
    """Train to the last step, or until the run is told to stop, from the newest checkpoint if there is one.

    Raises TrainingFailed, on every worker alike, on a bad loss and where no checkpoint can be read.
    """
    config = stage.train
    model = sharding.shard(stage.model, config, run.device)
    precision = sharding.agreed_precision(config.precision, run.device)
    run.say(f"{stage.name} in {precision} on {run.world_size} x {run.device.type.upper()}")
    if (warmup := stage.optim.warmup_steps) > config.steps:
        run.say(f"{stage.name}: optim.warmup_steps = {warmup} of {config.steps} steps: optim.lr is never reached")
    optimizer = make_optimizer(model, stage.optim, precision)
    average = MovingAverage(model, stage.optim.ema)
    position = resume(stage, run, optimizer, average)
    journal = Journal(run.folder, stage.name, config.steps, position.step, run.say if run.rank == 0 else None)
    ahead = closing(stage.batches.stream(position.step, run.rank, run.world_size))
    with closing(journal), ahead as batches, watchdog(run) as step_done:
        wish = Wish.GO_ON
        while not position.ended(config) and wish < Wish.STOP:
            with journal.clock():
                wanted = sharding.highest_over_workers(run.wish())
                batch, waited = next(batches)
                figures = update(stage, batch, position.step, optimizer, run)
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
            wish = Wish(wanted())
            if position.step % config.checkpoint_every == 0 or position.ended(config) or wish >= Wish.SAVE:
                with journal.stalled(position.step):
                    write = partial(checkpoint.save, model, optimizer, average, stage.memory(), position)
                    run.save(position.step, write, position.best_of(stage.phase(position.step)))
            step_done()
    return position


def update(stage: Stage, batch: Batch, step: int, optimizer: torch.optim.Optimizer, run: Run) -> dict[str, float]:
    """One step of the optimizer; returns the loss, its terms and the gradient's norm."""
    rate = learning_rate(step, stage.train.steps, stage.optim)
    for group in optimizer.param_groups:
        group["lr"] = rate
    terms = backward(stage, batch, step, run.world_size)
    parameters = list(stage.model.parameters())
    total_norm = nn.utils.get_total_norm(sharding.gradients_of(parameters))
    # One wait for a GPU instead of several.
    *figures, norm = torch.stack([*terms.values(), sharding.whole(total_norm)]).tolist()
    values = dict(zip(terms, figures, strict=True))
    if not math.isfinite(norm):  # the norm is over all workers: all stop here, before the weights are touched
        raise TrainingFailed(f"{stage.name}: not finite at step {step}: {blame(stage, values, step, run)}")
    if norm > stage.optim.clip:
        nn.utils.clip_grads_with_norm_(parameters, stage.optim.clip, total_norm)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": sum(values.values())} | {f"loss/{name}": value for name, value in values.items()} | {"norm": norm}


def backward(stage: Stage, batch: Batch, step: int, world_size: int) -> dict[str, Tensor]:
    """Gradients of the loss over the global batch, whatever share of it this worker has, part after part.

    Returns the terms of the loss: their means over the workers are those over the global batch.
    """
    parts = parts_of(batch, stage.train.accumulate)
    sums: dict[str, Tensor] = {}
    for i, part in enumerate(parts, start=1):
        sharding.exchange_gradients(stage.model, i == len(parts))
        weight = len(part["place"]) * world_size / stage.train.batch_size
        terms = {name: weight * term for name, term in stage.losses(part, step).items()}
        torch.stack(list(terms.values())).sum().backward()
        sums = {name: sums.get(name, 0) + term.detach() for name, term in terms.items()}
    return sums


def blame(stage: Stage, values: dict[str, float], step: int, run: Run) -> str:
    """Which worker's terms are not finite, and on which notes. Every worker calls it and gets the same."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    notes = stage.batches.names(step, run.rank, run.world_size) if bad else []
    told = f"on rank {run.rank} {', '.join(bad)} (notes: {', '.join(notes)})" if bad else ""
    found = [told for told in sharding.gather_objects(told) if told]
    return f"{'; '.join(found) or 'the gradient, though every loss is'}: look at these notes, or try a lower --optim.lr"


def validate(stage: Stage, average: MovingAverage, position: Position, journal: Journal, run: Run) -> None:
    """Measure the averaged weights; export them where they are the best so far."""
    stage.model.eval()
    with average.swapped_in(), torch.no_grad():
        figures = stage.validate()
        journal.validation(position.step, figures)
        if stage.phase(position.step) != position.phase:
            position.best, position.num_worse, position.phase = {}, 0, stage.phase(position.step)
        position.num_worse += position.phase == stage.phase(stage.train.steps)  # the last phase alone may end early
        if not position.best or stage.better(figures, position.best):
            position.best, position.num_worse = figures, 0
            weights = sharding.full_state_dict(stage.model)
            if run.rank == 0:
                stage.export(weights, figures, position.step, journal)
    stage.model.train()


def resume(stage: Stage, run: Run, optimizer: torch.optim.Optimizer, average: MovingAverage) -> Position:
    """Go on from the newest checkpoint that is whole; from the start where none has ever been."""
    memory, not_whole, damaged = stage.memory(), list[str](), False
    position: Position | None = None
    for name, context in run.checkpoints():
        try:
            with context as folder:
                position = checkpoint.load(folder, stage.model, optimizer, average, memory)
            break
        except checkpoint.Damaged as damage:
            unfinished = isinstance(damage, checkpoint.Unfinished)
            what = "was never finished" if unfinished else "is damaged"
            run.say(f"{stage.name}: checkpoint {name} {what} ({damage}): the one before is taken")
            not_whole.append(name)
            damaged |= not unfinished
    if position is None and damaged:  # nothing is changed: the same command shall not begin anew either
        raise TrainingFailed(f"{stage.name}: no checkpoint in {run.name} is whole: delete it and start anew")
    for name in not_whole:
        run.distrust(name)
    if position is None:
        return Position(seed=stage.train.seed)
    stage.recall(memory)
    if position.seed != stage.train.seed:
        raise ValueError(f"train.seed: {stage.train.seed} differs from the checkpoint's {position.seed}: keep it")
    run.say(f"{stage.name}: resumed at step {position.step}, row {position.rows_seen}")
    return position
