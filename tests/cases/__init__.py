"""Hard cases of exactly once, each through the whole worker and on real servers; see `docs/exactly-once.md`."""
