"""What the connectors of PostgreSQL have in common: sessions, names, errors and COPY streams. Registers nothing."""
