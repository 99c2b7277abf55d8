"""`mars ...`: the commands by their names, and what becomes of their mistakes."""

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence

from mars_dist.commands.data import encode, notes, preprocess, show
from mars_dist.commands.models import evaluate, sample
from mars_dist.commands.planning import check, jobs, presets, submit
from mars_dist.commands.training import pipeline, quickstart, train_ar, train_classifier, train_tokenizer, tune
from mars_dist.errors import OutOfMemory, Stopped, TrainingFailed

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
    arguments = [at_home(argument) for argument in arguments if argument != "--debug"]
    if debug and arguments[:1] == ["submit"]:
        arguments.append("--debug")  # the job's own word too
    try:
        run(*arguments)
        sys.stdout.flush()
    except (ValueError, OSError, TrainingFailed, OutOfMemory) as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left as it ends
            sys.exit(128 + signal.SIGPIPE)
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


def run(command: str = "--help", *arguments: str) -> None:
    if command in ("-h", "--help"):
        print(usage())
    elif command in COMMANDS:
        COMMANDS[command](arguments)
    else:
        raise ValueError(f"{command}: there is no such command: choose {', '.join(COMMANDS)}")


def at_home(argument: str) -> str:
    """`--out=~/notes` with the user's home, which a shell puts only where a word begins with it."""
    name, equals, value = argument.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals and value.startswith("~") else argument


def nobody_reads() -> bool:
    """Whether what would read this command's output has ended, as `head` does when it has its lines."""
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    return any(state & select.POLLERR for _, state in pipe.poll(0))


def usage() -> str:
    lines = [f"  {name:16} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: mars COMMAND ...  (COMMAND --help: its options; --debug: tracebacks)", "", *lines])
