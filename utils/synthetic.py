"""Draw a sheet of faces: `python -m utils.synthetic --help`."""

import sys

from .faces.synthetic.dataset import main

if __name__ == "__main__":
    sys.exit(main())
