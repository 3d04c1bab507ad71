"""Avro's binary encoding to Arrow columns and back, without a Python loop per record."""
