"""All stages in a row, from notes to a page of measured sounds: each only where it is not finished."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mars_dist.addresses import Address, address
from mars_dist.config import ClassifierRunConfig
from mars_dist.presets import Preset
from mars_dist.progress import say

if TYPE_CHECKING:
    from mars_dist.evaluation.evaluate import Asked
    from mars_dist.storage import Folder

PAGE, TABLE = "report.html", "table.txt"
Stage = Callable[[str], AbstractContextManager[None]]


@contextmanager
def announced(name: str) -> Iterator[None]:
    """Around each stage: its name is said."""
    say(f"== {name}")
    yield


@dataclass(frozen=True)
class Pipeline:
    """What is made of which notes. Each stage has a folder of its own within `out`."""

    source: str
    out: Address
    preset: Preset
    classifier: ClassifierRunConfig
    measured: "Asked"
    """How many notes are measured, of which splits."""
    shown: int
    """Notes of each split that the page plays."""

    def run(
        self,
        workers: int | None,
        classifier_workers: int | None,
        min_workers: int | None = None,
        stage: Stage = announced,
    ) -> str:
        """Run what is missing. Returns the table of the evaluation. Raises ValueError for what a user can mend.

        Workers are as for `launch.fit`.
        """
        from mars_dist.distributed.data import encode, preprocess
        from mars_dist.evaluation.evaluate import splits_of
        from mars_dist.launch import fit, require_workers
        from mars_dist.storage import Folder
        from mars_dist.training.plan import Plan

        out = Folder.open(self.out)
        pictures, codes = (out.sub(name).name for name in ("pictures", "codes"))
        tokenizer, model, classifier = (
            address(out.sub(name).name) for name in ("tokenizer", "autoregressor", "classifier")
        )
        of_tokenizer = Plan(self.preset.tokenizer, pictures, tokenizer)
        of_model = Plan(self.preset.autoregressor, codes, model, tokenizer)
        of_classifier = Plan(self.classifier, pictures, classifier)
        for plan, number in ((of_tokenizer, workers), (of_model, workers), (of_classifier, classifier_workers)):
            require_workers(plan, number, min_workers)
        with stage("preprocess"):
            preprocess(self.source, pictures, self.preset.tokenizer.spectrogram, progress=say)
            splits_of(pictures, self.measured)  # a split that there is not is told now, not after hours of training
        with stage("train_tokenizer"):
            fit(of_tokenizer, workers, say, min_workers)
        with stage("encode"):
            encode(pictures, tokenizer, codes, say)
        with stage("train_autoregressor"):
            fit(of_model, workers, say, min_workers)
        with stage("train_classifier"):
            fit(of_classifier, classifier_workers, say, min_workers)
        with stage("evaluate"):
            return self.evaluate(out, pictures, model, classifier)

    def evaluate(self, out: "Folder", pictures: str, model: Address, classifier: Address) -> str:
        """The table, as it is kept; made anew where it was made of something else than what is asked for now."""
        from mars_dist.evaluation.judges import Judges
        from mars_dist.page import EvaluationPlan, evaluate_folders, figures_of
        from mars_dist.phase import DEFAULT
        from mars_dist.sampling import AS_ASKED
        from mars_dist.serialize import first_difference

        judges = Judges(classifier)
        plan = EvaluationPlan([model], pictures, self.measured, self.shown, judges, AS_ASKED, DEFAULT)
        figures = figures_of(PAGE)
        if {TABLE, figures} <= out.list():
            before = out.read_json(figures)
            difference = first_difference(before, plan.settings)
            if difference is None:
                say(f"{out.link(PAGE)}: finished already: nothing to do")
                return out.read(TABLE).decode()
            say(f"{out.link(PAGE)}: was made of {difference:.200}: it is made anew")
            out.delete(TABLE)
        table = evaluate_folders(plan, out, PAGE, say)
        out.write(TABLE, f"{table}\n".encode())  # written last: its presence means evaluated
        return f"{table}\n"
