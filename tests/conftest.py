"""A small source of real wav files, and models trained on it for a few steps, without Ray."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from hypothesis import settings

from mars_dist import codes, pictures
from mars_dist.audio import write_wav
from mars_dist.config import (
    AutoregressorConfig,
    AutoregressorRunConfig,
    ClassifierConfig,
    ClassifierRunConfig,
    CodebookConfig,
    OptimConfig,
    SpectrogramConfig,
    TokenizerConfig,
    TokenizerRunConfig,
    TrainConfig,
)
from mars_dist.costs import tokenizer_step
from mars_dist.dataset import DatasetInfo
from mars_dist.nsynth import FAMILIES, QUALITIES, Note
from mars_dist.precision import cpu_multiplies_bf16
from mars_dist.products import mkl_is_held_back
from mars_dist.scales import Size
from mars_dist.sources.read import read_source
from mars_dist.storage import Folder
from mars_dist.training.plan import Plan
from mars_dist.training.run import LocalRun

# A machine that is busy is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Before any worker starts, which has the same.
os.environ |= {"AWS_ACCESS_KEY_ID": "of tests", "AWS_SECRET_ACCESS_KEY": "of tests", "AWS_DEFAULT_REGION": "us-east-1"}

SHORT = SpectrogramConfig(num_samples=2000, n_fft=128, hop=125, cmx=Size(4, 4))
STEPS = TrainConfig(
    steps=20,
    batch_size=4,
    precision="float32",
    shuffle_rows=8,
    log_every=1,
    checkpoint_every=10,
    validate_every=10,
    validation_rows=4,
)
OPTIM = OptimConfig(lr=2e-3, warmup_steps=4, ema=0.9)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where two processes share the tests, one has all of tests/distributed: there is one runtime of Ray.

    (The mark xdist_group does nothing with pytest 9 and pytest-xdist 3.8.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneRuntime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith("tests/distributed/") else nodeid

    return OneRuntime(config, log)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """host:port of an S3 server in this process.

    It compares (If-Match, If-None-Match) and writes in two steps; S3 does so in one, and runs rely on it.
    """
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    put_object, one_at_a_time = S3Response.put_object, Lock()

    def put_in_one_step(request: S3Response) -> Any:
        with one_at_a_time:
            return put_object(request)

    patched = pytest.MonkeyPatch()
    patched.setattr(S3Response, "put_object", put_in_one_step)
    logging.getLogger("werkzeug").setLevel("WARNING")  # or a failed test shows nothing but requests
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()
    patched.undo()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The address of a folder in an empty bucket."""
    import boto3

    urlopen(Request(f"http://{s3_server}/moto-api/reset", method="POST")).close()
    boto3.client("s3", endpoint_url=f"http://{s3_server}").create_bucket(Bucket="bucket")
    return f"s3://bucket/folder?endpoint_override={s3_server}&scheme=http"


@pytest.fixture
def short() -> SpectrogramConfig:
    """Settings for the notes of `short_notes`: pictures of (16, 16, 4)."""
    return SHORT


@pytest.fixture
def short_notes(tmp_path: Path) -> Path:
    """A source of 19 notes, an eighth of a second each: 12 train, 4 valid, 3 test."""
    return write_short_notes(tmp_path / "notes")


@pytest.fixture(scope="session")
def short_pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same notes as a data set of pictures, made without Ray. Read only."""
    source = write_short_notes(tmp_path_factory.mktemp("short") / "notes")
    folder = Folder.open(source.parent / "pictures")
    jobs = pictures.plan(read_source(source).splits.values(), shard_rows=8)
    made = [pictures.make_shard(job, folder, SHORT) for job in jobs]
    shards = tuple(one.shard for one in made)
    DatasetInfo("pictures", SHORT, pictures.arrays(SHORT), shards, source="short notes").save(folder)
    return folder.name


def write_short_notes(source: Path) -> Path:
    pitch = 48
    for split, num_notes in {"train": 12, "valid": 4, "test": 3}.items():
        folder = source / f"nsynth-{split}"
        (folder / "audio").mkdir(parents=True)
        entries = {}
        for _ in range(num_notes):
            pitch += 1
            family = pitch % len(FAMILIES)
            name = f"{FAMILIES[family]}_acoustic_{pitch:03d}"
            note = Note(
                note=pitch,
                note_str=f"{name}-{pitch:03d}-100",
                instrument=pitch,
                instrument_str=name,
                pitch=pitch,
                velocity=100,
                sample_rate=SHORT.sample_rate,
                qualities=tuple(int(i == pitch % 10) for i in range(len(QUALITIES))),
                instrument_family=family,
                instrument_source=0,
            )
            hertz = 440 * 2 ** ((pitch - 69) / 12)
            wave_T = 0.5 * np.sin(2 * np.pi * hertz * np.arange(SHORT.num_samples) / SHORT.sample_rate)
            write_wav(folder / "audio" / f"{note.note_str}.wav", wave_T.astype(np.float32), SHORT.sample_rate)
            entries[note.note_str] = note.to_json()
        (folder / "examples.json").write_text(json.dumps(entries))
    return source


@pytest.fixture(scope="session")
def tokenizer_config() -> TokenizerRunConfig:
    """float32, rectangular scales; the codebook is born at step 4 and restarted from step 8 on."""
    return TokenizerRunConfig(
        spectrogram=SHORT,
        tokenizer=TokenizerConfig(
            patch=Size(4, 2),
            scales=(Size(1, 1), Size(2, 1), Size(4, 2)),
            codebook_size=32,
            code_width=8,
            width=32,
            depth=1,
            head_width=16,
        ),
        codebook=CodebookConfig(start_step=4, restart_every=4),
        optim=OPTIM,
        train=STEPS,
    )


@pytest.fixture(scope="session")
def autoregressor_config() -> AutoregressorRunConfig:
    """float32, with every kind of noise that training has."""
    model = AutoregressorConfig(
        width=32, depth=2, head_width=16, drop_path=0.2, condition_on_instrument=True, corrupt_codes=0.3
    )
    return AutoregressorRunConfig(model, replace(OPTIM, weight_decay=0.05), STEPS)


@pytest.fixture(scope="session")
def train_here() -> Callable[[Plan], None]:
    """Run a plan in this process, on one thread, as the workers do."""

    def train(plan: Plan) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        plan.train(LocalRun(plan.folder))
        torch.set_num_threads(threads)

    return train


@pytest.fixture(scope="session")
def tokenizer_plan(
    tokenizer_config: TokenizerRunConfig, short_pictures: str, tmp_path_factory: pytest.TempPathFactory
) -> Plan:
    return Plan(tokenizer_config, short_pictures, tmp_path_factory.mktemp("tokenizer") / "one")


@pytest.fixture(scope="session")
def trained_tokenizer(tokenizer_plan: Plan, train_here: Callable[[Plan], None]) -> Plan:
    """20 undisturbed steps in one process."""
    train_here(tokenizer_plan)
    return tokenizer_plan


@pytest.fixture(scope="session")
def encode_here(short_pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Plan], str]:
    """Make the pictures codes of a trained tokenizer, without Ray."""

    def encode(trained: Plan) -> str:
        out = tmp_path_factory.mktemp("codes") / "codes"
        codes.encode_here(short_pictures, trained.folder, out)
        return str(out)

    return encode


@pytest.fixture(scope="session")
def short_codes(trained_tokenizer: Plan, encode_here: Callable[[Plan], str]) -> str:
    """The pictures as codes of the trained tokenizer. Read only."""
    return encode_here(trained_tokenizer)


@pytest.fixture(scope="session")
def autoregressor_plan(
    autoregressor_config: AutoregressorRunConfig,
    trained_tokenizer: Plan,
    short_codes: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Plan:
    folder = tmp_path_factory.mktemp("autoregressor") / "one"
    return Plan(autoregressor_config, short_codes, folder, trained_tokenizer.folder)


@pytest.fixture(scope="session")
def trained_autoregressor(autoregressor_plan: Plan, train_here: Callable[[Plan], None]) -> Plan:
    """20 undisturbed steps in one process."""
    train_here(autoregressor_plan)
    return autoregressor_plan


@pytest.fixture(scope="session")
def classifier_plan(short_pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    config = ClassifierRunConfig(SHORT, ClassifierConfig(frames=4, width=8, features=16), OPTIM, STEPS)
    return Plan(config, short_pictures, tmp_path_factory.mktemp("classifier") / "one")


@pytest.fixture(scope="session")
def trained_classifier(classifier_plan: Plan, train_here: Callable[[Plan], None]) -> Plan:
    """20 undisturbed steps in one process."""
    train_here(classifier_plan)
    return classifier_plan


@pytest.fixture
def this_cpu_can(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Lets torch describe this machine's CPU as another one."""

    def describe(*names: str, cpu_name: str = "another") -> None:
        can = {"avx2": True, "cpu_name": cpu_name, **dict.fromkeys(names, True)}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
        forget_the_cpu()

    yield describe
    monkeypatch.undo()
    forget_the_cpu()


def forget_the_cpu() -> None:
    """What was found of it before."""
    for found in (cpu_multiplies_bf16, mkl_is_held_back, tokenizer_step):
        found.cache_clear()
