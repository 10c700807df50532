"""What needs no database; milliseconds."""
