"""The command ``leora``: the pipeline for people, cron jobs and scripts.

What belongs here: reading arguments, choosing the database, and showing what the core returns.
What does not: any of the pipeline's logic. Each command has a module of its own, imported when it
is called, since some of them need heavy libraries.
"""

from leora_pipeline.cli.app import main

__all__ = ["main"]
