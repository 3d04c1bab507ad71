"""Values framed as Confluent's serialisers frame them, with schemas from a schema registry."""
