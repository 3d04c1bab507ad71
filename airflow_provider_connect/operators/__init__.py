"""Operators: flows as tasks."""
