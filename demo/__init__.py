"""The demonstration: `make demo`. Live events flow through Kafka, Airflow and PostgreSQL, all of it real and local."""
