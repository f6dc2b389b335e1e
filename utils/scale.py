"""What a million faces cost: `python -m utils.scale --help`."""

import sys

from .experiments.scale import main

if __name__ == "__main__":
    sys.exit(main())
