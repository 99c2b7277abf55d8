"""What is to be trained, on what, into which folder: small enough to send to a worker, checked before any starts."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, NamedTuple

import torch

from mars_dist.addresses import Address, address
from mars_dist.config import EXECUTION, AutoregressorRunConfig, ClassifierRunConfig, TokenizerRunConfig
from mars_dist.dataset import MANIFEST
from mars_dist.errors import OutOfMemory, TrainingFailed
from mars_dist.lease import sole_writer
from mars_dist.memory import keep_freed_memory
from mars_dist.model import TOKENIZER, WEIGHTS, model_fingerprint
from mars_dist.progress import Say
from mars_dist.serialize import as_json, first_difference, from_plain, to_plain
from mars_dist.storage import Folder
from mars_dist.training.autoregressor_stage import AutoregressorStage
from mars_dist.training.autoregressor_stage import require_fit as require_codes_fit
from mars_dist.training.batches import require_rows
from mars_dist.training.checkpoint import Position
from mars_dist.training.classifier_stage import ClassifierStage
from mars_dist.training.fine_tuning import require_same_autoregressor, require_same_tokenizer
from mars_dist.training.journal import TENSORBOARD
from mars_dist.training.loop import Stage, train
from mars_dist.training.run import CHECKPOINTS, STEP, Run
from mars_dist.training.sharding import require_replicas
from mars_dist.training.tokenizer_stage import TokenizerStage
from mars_dist.training.tokenizer_stage import require_fit as require_pictures_fit

RunConfig = TokenizerRunConfig | AutoregressorRunConfig | ClassifierRunConfig
KINDS: dict[str, type[RunConfig]] = {
    "tokenizer": TokenizerRunConfig,
    "autoregressor": AutoregressorRunConfig,
    "classifier": ClassifierRunConfig,
}
"""The settings of each kind of run, by their section that no other kind has."""
PARTS = (CHECKPOINTS, TOKENIZER, TENSORBOARD)
"""Folders in a run's."""
PLAN, FINISHED = "plan.json", "finished.json"
"""In a run's training/ folder: what it was started with, and that it came to its end."""


@dataclass(frozen=True)
class Plan:
    """A training of what its settings are for."""

    config: RunConfig
    data: str
    folder: Address
    """Where the run and its model are kept, on a disk that all workers share or in S3."""
    tokenizer: Address | None = None
    """The folder of a tokenizer, whose codes an autoregressor is trained on."""
    init_from: Address | None = None
    """The folder of a trained model of the same kind, whose weights are the first ones: fine-tuning."""

    def check(self, workers: int) -> None:
        """Raises ValueError where the settings fit neither data nor workers, or the folder holds another run's work."""
        self.require_fit(workers)
        before = self.noted(PLAN)
        if before is None and self.holds_a_model:  # one that was copied there, or whose training/ was deleted
            raise ValueError(f"{self.folder}: holds a model that is not this run's: choose another --out")
        if before and (difference := self.difference(before)) and self.holds_anything:
            raise ValueError(f"{self.folder}: holds a run with {difference}: use its settings, or choose another --out")

    def require_fit(self, workers: int) -> None:
        """Raises ValueError where the settings fit neither data nor workers."""
        self.require_workers(workers)
        match self.config:
            case TokenizerRunConfig():
                require_pictures_fit(self.config, self.data)
                if self.init_from:
                    require_same_tokenizer(self.init_from, self.config)
            case AutoregressorRunConfig():
                require_codes_fit(self.tokenizer_folder, self.data)
                if self.init_from:
                    require_same_autoregressor(self.init_from, self.config, self.tokenizer_folder)
            case ClassifierRunConfig():
                require_pictures_fit(self.config, self.data)

    def require_workers(self, workers: int) -> None:
        """Raises ValueError where the settings do not fit so many workers."""
        require_rows(self.config.train, workers)
        require_replicas(self.config.train, workers)

    def stage(self, run: Run) -> Stage:
        """What the loop trains; made by every worker."""
        match self.config:
            case TokenizerRunConfig():
                return TokenizerStage(self.config, self.data, run, self.init_from)
            case AutoregressorRunConfig():
                return AutoregressorStage(self.config, self.tokenizer_folder, self.data, run, self.init_from)
            case ClassifierRunConfig():
                return ClassifierStage(self.config, self.data, run)

    def train(self, run: Run) -> Position:
        """Train to the end, or until the run is told to stop; every worker calls it.

        Raises OutOfMemory where a GPU has no memory left: with no figures, which differ from time to time.
        """
        keep_freed_memory()
        try:
            return train(self.stage(run), run)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{self.folder}: a GPU has no memory left: raise --train.accumulate (a step in more parts), choose "
                "--train.recompute blocks, or more --workers; mars check tells what each takes"
            ) from error

    @property
    def tokenizer_folder(self) -> Address:
        assert self.tokenizer is not None
        return self.tokenizer

    @property
    def training(self) -> Folder:
        """Where checkpoints and notes of the run are kept."""
        return Folder.open(self.folder).sub(CHECKPOINTS)

    @property
    def finished(self) -> bool:
        """Whether this very run came to its end."""
        done = self.noted(FINISHED)
        return done is not None and self.difference(done) is None

    @property
    def holds_anything(self) -> bool:
        """Whether work would be lost with what the run's folder holds: one that was stopped early holds nothing yet."""
        return self.holds_a_model or any(name == FINISHED or name.startswith(STEP) for name in self.training.list())

    @property
    def holds_a_model(self) -> bool:
        return WEIGHTS in Folder.open(self.folder).list()

    def difference(self, before: "Noted") -> str | None:
        """The first field in which a run that was noted trains something else; where and how are free to change.

        So is the place of its data, of the tokenizer that made them, and of a model that fine-tuning starts from; but
        not what they are.
        """
        plan, then, now = before.plan, before.dataset, self.dataset
        if plan.init_from != self.init_from and before.first_weights and before.first_weights == self.first_weights:
            plan = replace(plan, init_from=self.init_from)
        if then and then == now:
            plan = replace(plan, data=self.data, tokenizer=self.tokenizer)
        elif then and now and plan.data == self.data:
            return f"data = {self.data} as it was then, not as it is now"
        return first_difference(plan.what_is_trained(), self.what_is_trained())

    @property
    def dataset(self) -> str | None:
        """What its data set is known by, wherever it lies; None where there is none any more."""
        try:
            return hashlib.sha256(Folder.open(self.data).read(MANIFEST)).hexdigest()
        except OSError:
            return None

    @property
    def first_weights(self) -> str | None:
        """What the model is known by that fine-tuning starts from, wherever it lies; None where there is none."""
        try:
            return model_fingerprint(self.init_from) if self.init_from else None
        except (OSError, ValueError):
            return None

    def what_is_trained(self) -> dict[str, Any]:
        """The plan without what decides nothing of the result: its folder, and how it is computed and told."""
        plain = self.to_plain()
        del plain["folder"]
        for name in EXECUTION:
            del plain["config"]["train"][name]
        return plain

    def mark_finished(self) -> None:
        """Raises TrainingFailed where the folder cannot be written."""
        with self.faults_told():
            self.note(FINISHED)

    @contextmanager
    def held(self, say: Say, stop: Event) -> Iterator[None]:
        """Be the only run that writes to the folder, and note the settings there; `stop` is set where it is no longer.

        Raises ValueError where another run writes there, now or later, or the folder cannot be written, TrainingFailed
        where it later cannot.
        """
        self.training.require_writable()
        with self.faults_told(), sole_writer(self.training, say, stop.set) as require_held:
            Folder.open(self.folder).clear_unfinished(PARTS)  # but not another run's, which may lie within
            self.note(PLAN)
            yield
            require_held()

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Raises TrainingFailed where a disk or a store refuses."""
        try:
            yield
        except OSError as error:
            told = f"{self.folder}: {error}: what was saved is kept, and the same command goes on from there"
            raise TrainingFailed(told) from error

    def noted(self, file: str) -> "Noted | None":
        """What a file of the run holds. Raises ValueError where it is damaged or cannot be read."""
        try:
            if file not in self.training.list():
                return None
            plain = self.training.read_json(file)
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be read ({error}): choose another --out") from error
        try:
            return Noted(Plan.from_plain(plain), plain.get("dataset"), plain.get("first_weights"))
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            told = f"damaged, or of another version ({error!r}): choose another --out"
            raise ValueError(f"{self.training.at(file)}: {told}") from error

    def note(self, file: str) -> None:
        """Raises OSError."""
        known_by = {"dataset": self.dataset, "first_weights": self.first_weights}
        self.training.write(file, as_json(self.to_plain() | known_by))

    def to_plain(self) -> dict[str, Any]:
        return {
            "config": to_plain(self.config),
            "data": self.data,
            "folder": str(self.folder),
            "tokenizer": str(self.tokenizer) if self.tokenizer else None,
            "init_from": str(self.init_from) if self.init_from else None,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Plan":
        kind = next(kind for name, kind in KINDS.items() if name in plain["config"])
        folders = (address(plain[name]) if plain.get(name) else None for name in ("tokenizer", "init_from"))
        return cls(from_plain(kind, plain["config"]), plain["data"], address(plain["folder"]), *folders)


class Noted(NamedTuple):
    """What a run's folder knows of the run."""

    plan: Plan
    dataset: str | None
    """See `Plan.dataset`."""
    first_weights: str | None
    """See `Plan.first_weights`."""
