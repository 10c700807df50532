"""What a user does: the command line, a real Dagster instance, its UI in a browser."""
