"""A run over whole tenants: refresh, plan, apply, publish, and what becomes of each tenant."""
