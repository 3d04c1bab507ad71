"""Protobuf messages to Arrow columns and back, with message types that are made from the text of a .proto file."""
