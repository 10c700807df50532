"""What people are told of how things stand. Only reads."""
