"""The console script `mars`, and `python -m mars_dist`."""

import gc

from mars_dist.memory import begin_anew


def main() -> None:
    begin_anew()
    from mars_dist.cli import main  # what would be lost by beginning anew is imported after it

    try:
        main()
    finally:
        gc.freeze()  # or at its end Python looks twice through all that was imported: a tenth of a short command


if __name__ == "__main__":
    main()
