"""`artifactmount …` with the calls of its store counted: `python counted.py FILE …` writes the page of metrics to FILE in the end.

Its times are worth nothing: each call is timed for the metrics, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import generate_latest

from artifactmount import settings
from artifactmount.cli import main
from artifactmount.metered import meter_store
from artifactmount.metrics import Metrics
from artifactmount.project import open_store
from artifactmount.store import Store

if __name__ == "__main__":
    page, metrics = Path(sys.argv.pop(1)), Metrics()

    def open_counted(url: str) -> Store:
        """See open_store."""
        store = open_store(url)
        meter_store(store, metrics)
        return store

    vars(settings)["open_store"] = open_counted
    code = main()
    page.write_bytes(generate_latest(metrics.registry))
    sys.exit(code)
