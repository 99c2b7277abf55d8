"""One Ray runtime for all tests of this folder."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

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


@pytest.hookimpl(tryfirst=True)  # before groups become part of names
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They share the runtime, and so a process: the other one of `make test` has all other tests."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ray"))
