"""Run the course's real path: `python -m utils.real --help`."""

import sys

from .publishing.real import main

if __name__ == "__main__":
    sys.exit(main())
