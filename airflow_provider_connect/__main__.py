"""`python -m airflow_provider_connect`: the command line, where the script `airflow-connect` is not on the path."""

from __future__ import annotations

import sys

from airflow_provider_connect.cli import main

if __name__ == "__main__":
    sys.exit(main())
