"""The tenants' thresholds and limits, and what a change of them does."""
