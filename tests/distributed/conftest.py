"""One Ray runtime for all tests of this folder."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from mars_dist.training.plan import Plan


@pytest.fixture(scope="session", autouse=True)
def runtime() -> Iterator[None]:
    os.environ.pop("RAY_ADDRESS", None)  # never the cluster that happens to run on this machine
    import ray

    from mars_dist.distributed.runtime import connect

    connect(num_cpus=4)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def undisturbed(
    tokenizer_plan: Plan, train_here: Callable[[Plan], None], tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    """Sixty steps, of which each tenth is saved."""
    train = replace(tokenizer_plan.config.train, steps=60)
    plan = replace(tokenizer_plan, config=replace(tokenizer_plan.config, train=train))
    plan = replace(plan, folder=tmp_path_factory.mktemp("undisturbed") / "run")
    train_here(plan)
    return plan
