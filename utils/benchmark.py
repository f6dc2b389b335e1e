"""Every method, on every data set and seed you name: `python -m utils.benchmark --help`."""

import sys

from .experiments.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
