"""The command `python -m utils.audit`; the audits are run and kept by utils/experiments/audits.py."""

import importlib
import sys

main = importlib.import_module("utils.experiments.audits").main

if __name__ == "__main__":
    sys.exit(main())
