"""Kafka Connect inside Airflow: flows of records between systems, declared in YAML or Python, exactly once."""

__version__ = "0.1.0"
