"""`mars ...`: the commands by their names, and what becomes of their mistakes."""

import signal
import sys
from collections.abc import Callable, Sequence

from mars_dist.commands.data import encode, notes, preprocess, show
from mars_dist.commands.models import evaluate, sample
from mars_dist.commands.planning import check, jobs, presets, submit
from mars_dist.commands.training import pipeline, quickstart, train_ar, train_classifier, train_tokenizer, tune
from mars_dist.errors import Stopped, TrainingFailed

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "quickstart": quickstart,
    "notes": notes,
    "preprocess": preprocess,
    "train-tokenizer": train_tokenizer,
    "encode": encode,
    "train-ar": train_ar,
    "train-classifier": train_classifier,
    "sample": sample,
    "evaluate": evaluate,
    "tune": tune,
    "pipeline": pipeline,
    "submit": submit,
    "jobs": jobs,
    "show": show,
    "check": check,
    "presets": presets,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """What the console script runs, and each of jobs/. A user's mistake is one line and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        if arguments[0] not in COMMANDS:
            raise ValueError(f"{arguments[0]}: there is no such command: choose {', '.join(COMMANDS)}")
        COMMANDS[arguments[0]](arguments[1:])
    except (ValueError, OSError, TrainingFailed) as error:
        if debug:
            raise
        print(f"mars: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"mars: {stopped}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        print("mars: stopped; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)


def usage() -> str:
    lines = [f"  {name:16} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: mars COMMAND ...  (mars COMMAND --help tells its options; --debug: tracebacks)", "", *lines]
    )
