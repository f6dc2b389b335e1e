"""Build the folder for a USB stick: `python -m utils.workshop --help`."""

import sys

from .publishing.workshop import main

if __name__ == "__main__":
    sys.exit(main())
