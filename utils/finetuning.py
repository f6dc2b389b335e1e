"""Fit a trained model to new people: `python -m utils.finetuning --help`."""

import sys

from .models.finetuning import main

if __name__ == "__main__":
    sys.exit(main())
