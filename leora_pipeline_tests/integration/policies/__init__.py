"""Tests of a room of the package: see the modules."""
