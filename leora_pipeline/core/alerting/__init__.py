"""Telling people: incidents, the outbox, digests, and their delivery."""
