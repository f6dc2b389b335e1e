"""Train the models that the course ships: `python -m utils.training --help`."""

import sys

from .experiments.embedded import main

if __name__ == "__main__":
    sys.exit(main())
