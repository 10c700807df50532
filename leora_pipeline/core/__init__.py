"""The pipeline itself: refresh, plan, gate, apply, publish, and what is asked of them.

Everything here works on PostgreSQL through SQLAlchemy and knows nothing of Dagster, of the command
line or of the embedded server: those are built on it.
"""
