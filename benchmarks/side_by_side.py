"""Contestants in processes of their own that take turns: noise meets all alike, and none has another's allocator.

Each round times one call of every contestant. What is told of two is the median of the rounds' ratios.
"""

import json
import math
import os
import platform
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter
from unittest.mock import patch

import torch
from data_memory import most_ever

from mars_dist import products
from mars_dist.cpus import cpu
from mars_dist.memory import preloaded

Call = Callable[[], object]
MIB = 2**20
SIDE = 2048
"""Of the matrices whose product gives the limit."""
FEWEST_ROUNDS = 5


@dataclass
class Times:
    """Of one contestant."""

    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    peak_bytes: int = 0
    """Main memory at the most, over what was taken before the contestant was set up."""

    @property
    def median(self) -> float:
        return median(self.seconds)

    def over(self, other: "Times") -> float:
        """How many times as long as the other one: the median over the rounds."""
        return median(mine / its for mine, its in zip(self.seconds, other.seconds, strict=True))


def take_turns(
    set_ups: Mapping[str, Callable[[], Call]], rounds: int, threads: int = 2, as_found: Collection[str] = ()
) -> dict[str, Times]:
    """What each call takes. `set_ups` are made in the contestants' processes, and warmed up by two calls.

    Those of `as_found` begin as a user's process does, with the system's allocator; the others with ours.
    """
    context = get_context("spawn")
    ends, found = dict[str, Connection](), {name: Times() for name in set_ups}
    processes = []
    ours = preloaded()
    for name, set_up in set_ups.items():
        with patch.dict(os.environ, dict.fromkeys(ours, "") if name in as_found else ours):
            ends[name], theirs = context.Pipe()
            processes.append(context.Process(target=contestant, args=(set_up, theirs, threads), daemon=True))
            processes[-1].start()
        theirs.close()
        ends[name].recv()  # one is ready before the next one begins
    for _ in range(rounds):
        for name, end in ends.items():
            end.send("go")
            seconds, found[name].peak_bytes = end.recv()
            found[name].seconds.append(seconds)
    for end, process in zip(ends.values(), processes, strict=True):
        end.close()
        process.join()
    return found


def contestant(set_up: Callable[[], Call], orders: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = most_ever_of_this()
    call = set_up()
    call()
    call()
    orders.send("ready")
    while True:
        try:
            orders.recv()
        except EOFError:
            return
        start = perf_counter()
        call()
        orders.send((perf_counter() - start, most_ever_of_this() - before))


def most_ever_of_this() -> int:
    """Bytes of main memory that this process has had at the most."""
    return most_ever(os.getpid())


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p where cost goes as size to the p: the slope between logarithms."""
    return linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def product(dtype: torch.dtype) -> Call:
    """A matrix product by the faster library: what the machine can do."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return lambda: products.product(a, b)


def product_rate(times: Times) -> float:
    """FLOP/s."""
    return 2 * SIDE**3 / times.median


@dataclass(frozen=True)
class Table:
    """What a benchmark has found."""

    title: str
    settings: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str = ""

    def __str__(self) -> str:
        lines = [f"| {' | '.join(row)} |" for row in (self.columns, ["--:"] * len(self.columns), *self.rows)]
        return "\n".join([f"### {self.title}", "", f"{self.settings}.", "", *lines, "", self.notes]).strip()


def machine() -> str:
    """Where it was found, and with what."""
    amx = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    bf16 = "AVX512-bf16" if torch.cpu._is_avx512_bf16_supported() else "no AVX512-bf16"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu()}, {amx}, {bf16}{gpu}, torch {torch.__version__}, Python {platform.python_version()}"


def options(doc: str | None, rounds: int = 7, with_notes: bool = False) -> Namespace:
    """What every benchmark is told."""
    return parser_of(doc, rounds, with_notes).parse_args()


def parser_of(doc: str | None, rounds: int = 7, with_notes: bool = False) -> ArgumentParser:
    """--rounds and --json, and what to measure on."""
    parser = ArgumentParser(description=(doc or "").split("\n")[0])
    if with_notes:
        absolute = lambda name: Path(name).absolute()  # noqa: E731
        parser.add_argument("--notes", type=absolute, required=True, help="an NSynth folder, such as quickstart/notes")
        parser.add_argument("--out", type=absolute, required=True, help="folder for what is made of them")
    parser.add_argument("--rounds", type=enough, default=rounds, help=f"at least {FEWEST_ROUNDS}")
    parser.add_argument("--json", type=Path, help="where the same figures are written")
    return parser


def enough(rounds: str) -> int:
    """Of fewer a median says little. Raises ArgumentTypeError."""
    if not rounds.isdecimal() or int(rounds) < FEWEST_ROUNDS:
        raise ArgumentTypeError(f"{rounds} must be a whole number, at least {FEWEST_ROUNDS}")
    return int(rounds)


def tell(given: Namespace, *tables: Table) -> None:
    """Print what was found, and write it where --json says."""
    print("\n\n".join([f"{machine()}.", *map(str, tables)]))
    if given.json:
        found = {"machine": machine(), "tables": [asdict(table) for table in tables]}
        given.json.write_text(json.dumps(found, indent=1))
