"""The command `python -m utils.audit`; the audits are run and kept by utils/experiments/audits.py."""

import importlib
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module("utils.experiments.audits").main())
