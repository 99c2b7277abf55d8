"""What is to be trained, on what, into which folder: small enough to send to a worker, checked before any starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars_dist.config import AutoregressorRunConfig, ClassifierRunConfig, TokenizerRunConfig
from mars_dist.memory import keep_freed_memory
from mars_dist.serialize import first_difference, from_plain, read_json, to_plain, write_json
from mars_dist.training.autoregressor_stage import AutoregressorStage
from mars_dist.training.autoregressor_stage import require_fit as require_codes_fit
from mars_dist.training.checkpoint import Position
from mars_dist.training.classifier_stage import ClassifierStage
from mars_dist.training.fine_tuning import require_same_autoregressor, require_same_tokenizer
from mars_dist.training.loop import Stage, train
from mars_dist.training.run import CHECKPOINTS, Run
from mars_dist.training.tokenizer_stage import TokenizerStage
from mars_dist.training.tokenizer_stage import require_fit as require_pictures_fit

RunConfig = TokenizerRunConfig | AutoregressorRunConfig | ClassifierRunConfig
KINDS: dict[str, type[RunConfig]] = {
    "tokenizer": TokenizerRunConfig,
    "autoregressor": AutoregressorRunConfig,
    "classifier": ClassifierRunConfig,
}
"""The settings of each kind of run, by their section that no other kind has."""
PLAN, FINISHED = "plan.json", "finished.json"
"""In a run's training/ folder: what it was started with, and that it came to its end."""


@dataclass(frozen=True)
class Plan:
    """A training of what its settings are for."""

    config: RunConfig
    data: str
    folder: Path
    tokenizer: str | None = None
    """The folder of a tokenizer, whose codes an autoregressor is trained on."""
    init_from: str | None = None
    """The folder of a trained model of the same kind, whose weights are the first ones: fine-tuning."""

    def check(self, workers: int) -> None:
        """Raises ValueError where the settings fit neither data nor workers, or the folder holds another run."""
        replicas = self.config.train.replicas
        if workers % replicas:
            raise ValueError(
                f"train.replicas: {workers} workers cannot be shared out among {replicas} replicas: choose a number of "
                "replicas that divides them, or another --workers"
            )
        match self.config:
            case TokenizerRunConfig():
                require_pictures_fit(self.config, self.data, workers)
                if self.init_from:
                    require_same_tokenizer(Path(self.init_from), self.config)
            case AutoregressorRunConfig():
                require_codes_fit(self.config, self.tokenizer_folder, self.data, workers)
                if self.init_from:
                    require_same_autoregressor(Path(self.init_from), self.config, self.tokenizer_folder)
            case ClassifierRunConfig():
                require_pictures_fit(self.config, self.data, workers)
        self.require_same_run()

    def stage(self, run: Run) -> Stage:
        """What the loop trains; made by every worker."""
        init_from = Path(self.init_from) if self.init_from else None
        match self.config:
            case TokenizerRunConfig():
                return TokenizerStage(self.config, self.data, run, init_from)
            case AutoregressorRunConfig():
                return AutoregressorStage(self.config, self.tokenizer_folder, self.data, run, init_from)
            case ClassifierRunConfig():
                return ClassifierStage(self.config, self.data, run)

    def train(self, run: Run) -> Position:
        """Train to the end, or until the run is told to stop; every worker calls it."""
        keep_freed_memory()
        return train(self.stage(run), run)

    @property
    def tokenizer_folder(self) -> Path:
        assert self.tokenizer is not None
        return Path(self.tokenizer)

    @property
    def finished(self) -> bool:
        """Whether this very run came to its end."""
        marker = self.folder / CHECKPOINTS / FINISHED
        return marker.exists() and Plan.from_plain(read_json(marker)) == self

    def mark_finished(self) -> None:
        write_json(self.folder / CHECKPOINTS / FINISHED, self.to_plain())

    def require_same_run(self) -> None:
        """Note the run's settings in its folder. Raises ValueError where it was begun with others."""
        path, plain = self.folder / CHECKPOINTS / PLAN, self.to_plain()
        try:
            if not path.exists():
                write_json(path, plain)
        except OSError as error:
            raise ValueError(f"{self.folder}: cannot be written ({error.strerror}): choose another --out") from None
        difference = first_difference(Plan.from_plain(read_json(path)).to_plain(), plain)
        if difference:
            raise ValueError(f"{self.folder}: holds a run with {difference}: use its settings, or choose another --out")

    def to_plain(self) -> dict[str, Any]:
        return {
            "config": to_plain(self.config),
            "data": self.data,
            "folder": str(self.folder),
            "tokenizer": self.tokenizer,
            "init_from": self.init_from,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Plan":
        kind = next(kind for name, kind in KINDS.items() if name in plain["config"])
        config = from_plain(kind, plain["config"])
        return cls(config, plain["data"], Path(plain["folder"]), plain["tokenizer"], plain.get("init_from"))
