"""The SQL of the revisions, and of the triggers on the CRM's tables."""
