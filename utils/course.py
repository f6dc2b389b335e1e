"""Run the notebooks and build the site: `python -m utils.course --help`."""

import sys

from .publishing.course import main

if __name__ == "__main__":
    sys.exit(main())
