"""Codecs: payload bytes to columns and back, one module per format; the module's name is the format."""
