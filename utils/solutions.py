"""Write the notebooks from their solutions: `python -m utils.solutions --help`."""

import sys

from .publishing.solutions import main

if __name__ == "__main__":
    sys.exit(main())
