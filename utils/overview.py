"""Write the README's and the docs' tables: `python -m utils.overview --help`."""

import sys

from .publishing.overview import main

if __name__ == "__main__":
    sys.exit(main())
