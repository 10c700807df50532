"""What people are shown of how things are. Only reads."""
