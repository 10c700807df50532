"""The tests: unit (no database), integration (a real PostgreSQL), acceptance (the command, Dagster)."""
