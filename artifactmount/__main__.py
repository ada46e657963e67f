"""`python -m artifactmount` is the command `artifactmount`."""

from __future__ import annotations

import sys

from artifactmount.cli import main

if __name__ == "__main__":
    sys.exit(main())
