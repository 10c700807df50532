"""The pipeline as Dagster shows and runs it: thin definitions around `leora_pipeline.core`.

What belongs here: assets, checks, jobs, schedules, resources, and the metadata that people see.
What does not: any step's logic, and any SQL.
"""
