"""What each method reaches when it may look at few photos or many: `python -m utils.budgets --help`."""

import sys

from .experiments.budgets import main

if __name__ == "__main__":
    sys.exit(main())
