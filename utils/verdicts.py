"""The audits in one table: `python -m utils.verdicts --help`."""

import sys

from .experiments.audit_summary import main

if __name__ == "__main__":
    sys.exit(main())
