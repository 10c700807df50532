"""Reaching PostgreSQL: engines, transactions, and the SQL files. Knows nothing of account types."""
