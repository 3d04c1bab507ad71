"""Every flow in this folder becomes an Airflow DAG."""

from airflow_provider_connect.loader import load_dataflows

load_dataflows(globals(), __file__)
