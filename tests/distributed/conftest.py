"""One Ray runtime for all tests of this folder."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def runtime() -> Iterator[None]:
    os.environ.pop("RAY_ADDRESS", None)  # never the cluster that happens to run on this machine
    import ray

    from mars_dist.distributed.runtime import connect

    connect(num_cpus=4)
    yield
    ray.shutdown()
