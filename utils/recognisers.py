"""Put two recognisers side by side: `python -m utils.recognisers --help`."""

import sys

from .experiments.recognisers import main

if __name__ == "__main__":
    sys.exit(main())
