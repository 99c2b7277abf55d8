"""The Ray runtime that all commands of a process share."""

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mars_dist.addresses import IN_A_JOB
from mars_dist.cpus import own_cpus
from mars_dist.memory import MALLOC_CONF
from mars_dist.storage import ENDPOINTS

MOST_LOSSES = 10
"""How often a task is begun anew because its process or machine was lost. Ray and Ray Data would do so for ever."""

# Read by Ray when it is imported, or by its workers when they start.
for name, value in {
    "MALLOC_CONF": MALLOC_CONF,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or each start warns of a change to come
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_LD_PRELOAD_ON_WORKERS": "1",  # the jemalloc that Ray brings, and gives to its own processes alone
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # seconds until an end or a loss is noticed, 2 by default
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # or ray.init waits for ever for a first worker that was killed
    "RAY_task_oom_retries": str(MOST_LOSSES),  # where Ray itself ends the process for want of memory: counted apart
    "RAY_worker_niceness": "0",  # 15 by default: whatever else runs on a laptop would starve the training
}.items():
    os.environ.setdefault(name, value)

import ray  # noqa: E402
from ray._private.utils import get_num_cpus  # noqa: E402
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

OWN = "MARS_OWN_RUNTIME"
"""Set in the environment of the process that started the runtime, and of its workers, which inherit it."""
LOCAL_OBJECT_STORE = 512 * 2**20
"""Bytes: what travels between tasks here is small, since every worker reads and writes files of its own."""


def connect(num_cpus: int | None = None) -> None:
    """Attach to the cluster that RAY_ADDRESS names, as it does in a job; else start a runtime on this machine, once.

    The cluster's workers find S3 where this process does. `num_cpus` is for a runtime that is started: as many as this
    process may use unless given. Raises ValueError where the cluster cannot be joined.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # importing ray.data resets it, be there a runtime or not
    if ray.is_initialized():
        return
    address, options = os.environ.get("RAY_ADDRESS", "local"), dict[str, Any]()
    os.environ.pop(OWN, None)
    if address == "local":
        os.environ[OWN] = "1"
        with joining(address):  # RAY_AUTH_TOKEN_PATH may name no token
            if not AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
                os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or Ray writes one into the user's home
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # an actor: nobody takes this machine away
        # Ray looks at a container's share of the machine, but not at what SLURM leaves a process of it.
        given_out = int(get_num_cpus(override_docker_cpu_warning=True))
        num_cpus = num_cpus or max(1, min(given_out, own_cpus()))  # half of one counts as none
        options = {"num_cpus": num_cpus, "object_store_memory": LOCAL_OBJECT_STORE, "include_dashboard": False}
        import torch  # as what is to run here does; who only asks a cluster does without

        if not torch.cuda.is_available():
            options["num_gpus"] = 0  # Ray counts also those whose driver is too old for torch
    elif endpoint := endpoint_to_hand_on():
        options = {"runtime_env": {"env_vars": endpoint}}
    join(address, **options)


def join(address: str, **options: Any) -> None:
    """A cluster, or a runtime of one's own. Raises ValueError as `joining`."""
    with joining(address):
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)


@contextmanager
def joining(address: str) -> Iterator[None]:
    """Raises ValueError where no cluster answers there, or none that fits."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{address}: does not answer ({error}): is the cluster up, and this its head?") from error
    except (RuntimeError, ValueError, RayError) as error:  # Ray's own words name versions that differ, or the token
        raise ValueError(f"{address}: cannot be joined: {' '.join(str(error).split())}") from error


def endpoint_to_hand_on() -> dict[str, str]:
    """What the cluster's workers may lack. They have what a job has set, and Ray refuses to be told it twice."""
    of_the_job = json.loads(os.environ.get(IN_A_JOB, "{}")).get("runtime_env", {}).get("env_vars", {})
    return {name: os.environ[name] for name in ENDPOINTS if name in os.environ and name not in of_the_job}


def is_our_own() -> bool:
    """Whether the runtime is one that ends with the process that started it; for that process and its workers."""
    return OWN in os.environ
