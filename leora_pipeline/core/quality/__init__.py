"""Data quality: what has to be true of the data, checked, and each verdict recorded.

A check reads a small frame, a row a tenant (the database has done the work), and Great
Expectations judges it: the only place where a threshold is compared. What the database guarantees
by constraints is no check.
"""
