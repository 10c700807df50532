"""The same work customer by customer: the listener, the hook, and one customer by its id."""
