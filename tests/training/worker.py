"""One worker of a training without Ray, as a process of its own: `worker.py PLAN RANK WORLD_SIZE STORE [--die-at N]`.

With --gradients FILE it writes the gradients of the first step instead of training, with --resumed FILE the weights
that it goes on from. With --stop-at N the last rank is
told to stop once it has done N steps. Training that fails exits with 3 and leaves failed-RANK.txt in the run's folder.
"""

import argparse
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from mars_dist.errors import TrainingFailed
from mars_dist.training import sharding
from mars_dist.training.loop import backward, resume
from mars_dist.training.optim import MovingAverage, make_optimizer
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun, Wish


class DyingRun(LocalRun):
    """Killed for real, right after it has saved the given step."""

    die_at: int | None = None
    stop_at: int | None = None
    steps = 0

    def wish(self) -> Wish:
        if self.steps == self.stop_at and self.rank == self.world_size - 1:
            self.stop.set()
        self.steps += 1
        return super().wish()

    def save(self, step: int, write: Callable[[Path], None], metrics: dict[str, float]) -> None:
        super().save(step, write, metrics)
        if step == self.die_at:
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
    resume(stage, run, make_optimizer(model, stage.optim), average)
    averages = {f"average.{name}": sharding.whole(tensor) for name, tensor in average.averages.items()}
    return averages | {name: sharding.whole(parameter.detach()) for name, parameter in model.named_parameters()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Path)
    parser.add_argument("rank", type=int)
    parser.add_argument("world_size", type=int)
    parser.add_argument("store")
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--gradients", type=Path)
    parser.add_argument("--resumed", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = dist.FileStore(options.store, options.world_size)
    dist.init_process_group("gloo", store=store, rank=options.rank, world_size=options.world_size)
    plan = Plan.from_plain(json.loads(options.plan.read_text()))
    run = DyingRun(plan.folder)
    run.die_at, run.stop_at = options.die_at, options.stop_at
    if path := options.gradients or options.resumed:
        tensors = first_gradients(plan, run) if options.gradients else resumed_weights(plan, run)
        if options.rank == 0:
            torch.save(tensors, path)
    else:
        try:
            plan.train(run)
        except TrainingFailed as failure:
            (plan.folder / f"failed-{run.rank}.txt").write_text(str(failure))
            os._exit(3)
    dist.destroy_process_group()
    # Gloo's threads may still hold tensors of the last exchange: freeing them while the interpreter ends would abort.
    os._exit(0)


if __name__ == "__main__":
    main()
