"""Hooks: an Airflow connection as the client of a system. One module per connector, named as it is."""
