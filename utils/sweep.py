"""Choose settings on people of no table: `python -m utils.sweep --help`."""

import sys

from .experiments.sweep import main

if __name__ == "__main__":
    sys.exit(main())
