"""One request to be forgotten after another: `python -m utils.sequence --help`."""

import sys

from .experiments.sequence import main

if __name__ == "__main__":
    sys.exit(main())
