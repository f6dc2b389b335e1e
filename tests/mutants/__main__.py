"""`python -m tests.mutants [list ...]`: plant the mistakes of the lists one at a time and report those unnoticed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tqdm.auto import tqdm

from utils.faces.datasets import load_faces
from utils.settings import CourseError, progress_bar

from .drawing import draw
from .planting import KILLED, plant, read_lists


def main() -> int:
    """Return 1 if a mistake was not noticed, or could not be judged."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("lists", nargs="*", help="names of tests/mutants/*.toml (default: all)")
    parser.add_argument(
        "--random", type=int, metavar="N", help="draw N mistakes in these wings (default: three) instead"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the repository at work (default 1)")
    arguments = parser.parse_args()
    start, ends = time.monotonic(), Counter()
    try:
        lists, drawn = arguments.lists, arguments.random
        mutants = read_lists(lists) if drawn is None else draw(drawn, arguments.seed, lists)
        load_faces("synthetic")  # drawn once, not by every run
        with progress_bar(desc="mistakes", total=len(mutants)) as bar:
            for mutant, end, line in plant(mutants, arguments.jobs):
                ends[end] += 1
                if end != KILLED:
                    tqdm.write(
                        f"{end}: {mutant.file}: {mutant.why}\n- {mutant.old}\n+ {mutant.new}\n  {mutant.tests} {line}\n"
                    )
                bar.update()
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    told = ", ".join(f"{count} {end}" for end, count in ends.items())
    print(f"{len(mutants)} mistakes: {told}; {(time.monotonic() - start) / 60:.1f} minutes")
    return int(ends.keys() != {KILLED})


if __name__ == "__main__":
    sys.exit(main())
