"""Iceberg tables, read and written through any catalog. What `iceberg` and `nessie` share; no type of its own."""
