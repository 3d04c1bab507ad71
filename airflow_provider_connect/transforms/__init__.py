"""Transforms: pure functions from rows to rows, one module per `type:`."""
