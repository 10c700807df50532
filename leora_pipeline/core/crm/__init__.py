"""What is known of the CRM's database: what it must have, and its tenants."""
