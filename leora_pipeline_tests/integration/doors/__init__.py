"""Tests of who may do what, and of ways in that have been tried: see the modules."""
