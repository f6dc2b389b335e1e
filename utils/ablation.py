"""What each part of a method gives: `python -m utils.ablation --help`."""

import sys

from .experiments.ablation import main

if __name__ == "__main__":
    sys.exit(main())
