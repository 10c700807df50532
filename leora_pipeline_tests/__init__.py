"""The tests: unit (no database), integration (a PostgreSQL), acceptance (the command, Dagster)."""
