"""Enter a method from one file into the leaderboard: `python -m utils.leaderboard --help`."""

import sys

from .experiments.leaderboard import main

if __name__ == "__main__":
    sys.exit(main())
