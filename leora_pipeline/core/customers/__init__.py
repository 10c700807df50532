"""The locked unit of work: customers' states refreshed, gated and written back to the CRM.

Everything that changes a type goes through here, whichever way it came. What does not belong here:
which customers to take, and when.
"""
