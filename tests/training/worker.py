"""One worker of a training without Ray, in a process of its own."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from mars_dist.errors import TrainingFailed
from mars_dist.training import sharding
from mars_dist.training.loop import backward, resume
from mars_dist.training.optim import MovingAverage, make_optimizer
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun, Wish


@dataclass(frozen=True)
class Asked:
    """What a worker is to do, other than train to the end."""

    die_at: int | None = None
    """Killed for real, right after it has saved this step."""
    stop_at: int | None = None
    """The last rank is told to stop once it has done so many steps."""
    gradients: Path | None = None
    """Write those of the first step here instead of training."""
    resumed: Path | None = None
    """Write the weights that training would go on from here instead."""


class DisturbedRun(LocalRun):
    def __init__(self, folder: Path, asked: Asked) -> None:
        super().__init__(folder)
        self.asked, self.steps = asked, 0

    def wish(self) -> Wish:
        if self.steps == self.asked.stop_at and self.rank == self.world_size - 1:
            self.stop.set()
        self.steps += 1
        return super().wish()

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        super().save(step, write, metrics)
        if step == self.asked.die_at:
            os.kill(os.getpid(), signal.SIGKILL)


def first_gradients(plan: Plan, run: LocalRun) -> dict[str, torch.Tensor]:
    stage = plan.stage(run)
    sharding.shard(stage.model, stage.train, run.device)
    backward(stage, stage.batches.load(0, run.rank, run.world_size), 0, run.world_size)
    return {name: sharding.whole(p.grad) for name, p in stage.model.named_parameters() if p.grad is not None}


def resumed_weights(plan: Plan, run: LocalRun) -> dict[str, torch.Tensor]:
    """As loaded, trained and averaged."""
    stage = plan.stage(run)
    model = sharding.shard(stage.model, stage.train, run.device)
    average = MovingAverage(model, stage.optim.ema)
    resume(stage, run, make_optimizer(model, stage.optim, stage.train.precision), average)
    averages = {f"average.{name}": sharding.whole(tensor) for name, tensor in average.averages.items()}
    return averages | {name: sharding.whole(parameter.detach()) for name, parameter in model.named_parameters()}


def work(plan: Plan, rank: int, world_size: int, scratch: Path, asked: Asked) -> None:
    """Exits with 3 where training fails, which leaves failed-RANK.txt in the run's folder."""
    with open(scratch / f"errors-{rank}.txt", "w") as errors:
        os.dup2(errors.fileno(), 2)
    torch.set_num_threads(1)
    store = dist.FileStore(str(scratch / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    run = DisturbedRun(plan.folder, asked)
    if path := asked.gradients or asked.resumed:
        tensors = first_gradients(plan, run) if asked.gradients else resumed_weights(plan, run)
        if rank == 0:
            torch.save(tensors, path)
    else:
        try:
            plan.train(run)
        except TrainingFailed as failure:
            (plan.folder / f"failed-{rank}.txt").write_text(str(failure))
            os._exit(3)
    dist.destroy_process_group()
    # Gloo's threads may still hold tensors of the last exchange: freeing them while the interpreter ends would abort.
    os._exit(0)
