"""How many rows a second a training can take in: by its workers, from a disk and from a store that is far away.

    python benchmarks/reading.py --notes quickstart/notes --out /tmp/reading

One of the workers reads its slices as fast as it can, and nothing is computed: with batches of 256 rows, a data set of
6,144 and two cores for each worker, that is what all of them keep up with. The store is moto's, on this machine; it
answers each request after 30 ms, as S3 may.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any
from unittest.mock import patch

import boto3
import torch
from check import prepare
from loading import enlarged
from side_by_side import Table, options, tell

from mars_dist.config import AutoregressorConfig, TrainConfig
from mars_dist.dataset import ROWS_IN_GROUP, Columns, DatasetInfo
from mars_dist.rows import Rows
from mars_dist.storage import Folder
from mars_dist.training.autoregressor_stage import labels
from mars_dist.training.batches import Batch, Batches

CODES = ["codes", *labels(AutoregressorConfig())]
KINDS = {
    "pictures": ("pictures", ["picture"]),
    "codes": ("codes", CODES),
    "codes with latents": ("codes", [*CODES, "latents"]),
}
"""The data set, and the columns of it."""
WORKERS = (1, 2, 4, 8)
ROWS, BATCH, WINDOW = 6144, 256, 1024
FIRST, STEPS = 8, 24
"""Batches that fill the window, and those that are timed."""
SECONDS = 0.03
"""Until the store answers."""
STRANGER = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


def serve(told: Connection) -> None:
    """An S3 server that takes its time."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel("WARNING")  # it would tell of each request
    answer = DomainDispatcherApplication(create_backend_app)

    def slowly(environ: dict[str, Any], start: Any) -> Any:
        sleep(SECONDS)
        return answer(environ, start)

    server = make_server("127.0.0.1", 0, slowly, threaded=True)
    told.send(server.server_port)
    server.serve_forever()


@contextmanager
def store() -> Iterator[str]:
    """host:port of one."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    yield f"127.0.0.1:{here.recv()}"
    process.terminate()
    process.join()


def send(folder: Path, host: str, bucket: str) -> str:
    """The address of the data set's copy in the store."""
    client = boto3.client("s3", endpoint_url=f"http://{host}")
    client.create_bucket(Bucket=bucket)
    for path in folder.iterdir():
        client.upload_file(str(path), bucket, path.name)
    return f"s3://{bucket}/?endpoint_override={host}&scheme=http"


def tensor_of(columns: Columns) -> Batch:
    return {"x": torch.from_numpy(next(iter(columns.values())))}


def rate(data: str, columns: list[str], workers: int, seed: int) -> tuple[float, float]:
    """Rows a second of all workers together, and the share of them that the first one reads."""
    rows, begun = Rows(data, "train"), list[int]()

    class Counted(Batches):
        def begin(self, group: int) -> Any:
            begun.append(group)
            return super().begin(group)

    batches = Counted(rows, columns, tensor_of, TrainConfig(batch_size=BATCH, seed=seed, shuffle_rows=WINDOW))
    with closing(batches.stream(0, 0, workers)) as stream:
        list(islice(stream, FIRST))
        before = len(begun)
        start = perf_counter()
        list(islice(stream, STEPS))
        seconds = perf_counter() - start
    return STEPS * BATCH / seconds, (len(begun) - before) * ROWS_IN_GROUP / (STEPS * BATCH)


def lines(place: str, kind: str, data: str, rounds: int) -> Iterator[list[str]]:
    for workers in WORKERS:
        found = [rate(data, KINDS[kind][1], workers, seed) for seed in range(rounds)]
        rates, shares = zip(*found, strict=True)
        yield [place, kind, str(workers), f"{median(rates):,.0f}", f"{median(shares):.2f}"]


def main() -> None:
    given, rows = options(__doc__, rounds=5, with_notes=True), list[list[str]]()
    prepare("small", given.notes, given.out / "small")
    with patch.dict(os.environ, STRANGER), store() as host:
        for kind, (name, _) in KINDS.items():
            data = given.out / "small" / name
            copies = -(-ROWS // DatasetInfo.load(Folder.open(data)).counts["train"])
            folder = enlarged(str(data), given.out / f"enlarged {kind}", copies)
            rows += lines("disk", kind, str(folder), given.rounds)
            rows += lines("store", kind, send(folder, host, kind.replace(" ", "-")), given.rounds)
    settings = f"Batches of {BATCH}, windows of about {WINDOW} rows, {given.rounds} rounds"
    columns = ["from", "", "workers", "rows/s", "of them read by a worker"]
    tell(given, Table("Reading: by the workers", settings, columns, rows))


if __name__ == "__main__":
    main()
