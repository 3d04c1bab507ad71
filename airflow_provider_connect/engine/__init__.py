"""The engine: contracts, flow, worker. Nothing in here imports airflow; `tests/test_architecture.py` holds it."""
