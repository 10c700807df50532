"""The core on a real PostgreSQL, a fresh database for each test."""
