"""The sample CRM: tables of the CRM's shape, and customers and orders to fill them with.

What belongs here: what the demo, the tests and the benchmarks need to stand in for a CRM. What does
not: anything that production runs. Production has these tables already, and nothing of the pipeline
itself may import this package but the command that starts the demo.
"""

from leora_pipeline.sample.crm import create_tables, load, tables_exist
from leora_pipeline.sample.tenants import DEMO_TENANTS, SampleTenant, scaled_tenants

__all__ = [
    "DEMO_TENANTS",
    "SampleTenant",
    "create_tables",
    "load",
    "scaled_tenants",
    "tables_exist",
]
