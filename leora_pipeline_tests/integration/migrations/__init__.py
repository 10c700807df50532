"""The pipeline's schema in the CRM's database: how it comes, changes and goes."""
