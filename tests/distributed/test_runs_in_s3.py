"""A training whose folder lies in S3, behind a store that fails now and then, with a worker that is killed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import boto3
import numpy as np
import pytest
from safetensors.torch import load_file

from mars_dist.codes import encode_here
from mars_dist.config import OptimConfig
from mars_dist.distributed.console import ALIKE
from mars_dist.errors import TrainingFailed
from mars_dist.fetched import on_disk
from mars_dist.launch import fit
from mars_dist.model import load_tokenizer
from mars_dist.rows import Rows
from mars_dist.scratch import users_own
from mars_dist.storage import Folder
from mars_dist.training.journal import read_metrics
from mars_dist.training.plan import Plan

from ..storage.faulty import FaultyProxy
from .kills import kill_once


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(s3_server)
    yield proxy
    proxy.close()


def test_a_run_in_a_faulty_bucket_loses_nothing(
    undisturbed: Plan,
    short_pictures: str,
    bucket: str,
    s3_server: str,
    proxy: FaultyProxy,
    tmp_path: Path,
) -> None:
    home = Folder.open(bucket)
    plan = replace(undisturbed, folder=bucket.replace(s3_server, proxy.address))
    proxy.meant = lambda method, path: method in ("PUT", "POST") and ("step_" in path or "model.safetensors" in path)
    proxy.faults = ["503", "cut upload", "500", "lost answer"]
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    unfinished = client.create_multipart_upload(Bucket="bucket", Key="folder/training/step_00000010/x")
    assert client.list_multipart_uploads(Bucket="bucket")["Uploads"][0]["UploadId"] == unfinished["UploadId"]
    checkpoint = home.sub("training/step_00000010")
    killer = kill_once(lambda: {"position.json", "checksums-1.json"} <= checkpoint.list(), "RayTrainWorker")
    before, said = set(users_own("scratch").iterdir()), list[str]()
    fit(plan, 2, said.append)

    assert proxy.faults == [] and not killer.is_alive()
    assert set(users_own("scratch").iterdir()) <= before
    assert any("resumed at step" in line for line in said), said
    assert "Uploads" not in client.list_multipart_uploads(Bucket="bucket")
    assert home.sub("training").list() >= {"plan.json", "finished.json", "step_00000050", "step_00000060"}
    found, expected = (
        [line["loss"] for line in read_metrics(folder, "train")] for folder in (on_disk(bucket), undisturbed.folder)
    )
    assert len(expected) == 60
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert len(read_metrics(on_disk(bucket), "valid")) == 6 and "tensorboard" in home.list()

    fit(plan, 2, said.append)
    assert said[-1] == f"{plan.folder}: finished already: nothing to do"

    # The folder is a model: it is read like one on a disk.
    tokenizer, run = load_tokenizer(bucket)
    assert run == undisturbed.config
    weights = load_file(on_disk(bucket) / "model.safetensors")
    assert all((weights[name] == tensor).all() for name, tensor in tokenizer.state_dict().items())
    encode_here(short_pictures, bucket, tmp_path / "codes")
    assert len(Rows(str(tmp_path / "codes"), "train").read(["codes"])["codes"]) == 12


@pytest.mark.cluster
def test_a_part_that_is_always_refused_ends_the_run(
    trained_tokenizer: Plan, bucket: str, s3_server: str, proxy: FaultyProxy
) -> None:
    """Of one worker: the other one's parts arrive, and are nothing without it."""
    plan = replace(trained_tokenizer, folder=bucket.replace(s3_server, proxy.address))
    proxy.meant = lambda method, path: method == "PUT" and "__1_0.distcp" in path
    proxy.faults = ["403"] * 100
    with pytest.raises(
        TrainingFailed, match=rf"failed {ALIKE} times alike: bucket/folder/.*__1_0.distcp: .*AccessDenied"
    ):
        fit(plan, 2, lambda line: None)


def test_workers_of_one_machine_share_a_copy_of_the_checkpoint(
    trained_tokenizer: Plan, bucket: str, s3_server: str, proxy: FaultyProxy
) -> None:
    for path in (trained_tokenizer.folder / "training" / "step_00000010").iterdir():
        Folder.open(bucket).sub("training/step_00000010").send(path)
    plan = replace(trained_tokenizer, folder=bucket.replace(s3_server, proxy.address))
    said: list[str] = []
    fit(plan, 2, said.append)
    assert any("resumed at step 10," in line for line in said), said
    assert proxy.asked["GET /bucket/folder/training/step_00000010/__0_0.distcp"] == 1


def test_a_run_in_s3_leaves_nothing_on_its_machines(trained_tokenizer: Plan, bucket: str) -> None:
    before = set(users_own("scratch").iterdir())
    fit(replace(trained_tokenizer, folder=bucket), 2, lambda line: None)
    assert set(users_own("scratch").iterdir()) <= before
    here, there = Folder.open(trained_tokenizer.folder), Folder.open(bucket)
    assert there.sizes().keys() == here.sizes().keys() and there.read("config.json") == here.read("config.json")
    assert len(read_metrics(on_disk(bucket), "valid")) == 2


def test_a_run_that_fails_has_told_how_it_came_to_that(trained_tokenizer: Plan, bucket: str) -> None:
    """The steps since its last checkpoint, of which there was none."""
    config = replace(trained_tokenizer.config, optim=OptimConfig(lr=1e30, warmup_steps=2))
    with pytest.raises(TrainingFailed, match=r"tokenizer: not finite at step [12]: "):
        fit(replace(trained_tokenizer, config=config, folder=bucket), 1, lambda line: None)
    assert read_metrics(on_disk(bucket), "train")[0]["step"] == 1
    assert "tensorboard" in Folder.open(bucket).list()


def test_another_run_in_its_bucket_is_refused(trained_tokenizer: Plan, bucket: str) -> None:
    plan = replace(trained_tokenizer, folder=bucket)
    with plan.held(lambda line: None, Event()):
        pass
    plan.training.sub("step_00000010").write("position.json", b"{}")
    other = replace(plan, config=replace(plan.config, train=replace(plan.config.train, seed=1)))
    with pytest.raises(
        ValueError, match=r"holds a run with train\.seed = 0, not 1: use its settings, or choose another"
    ):
        fit(other, 2, lambda line: None)
