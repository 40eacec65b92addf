"""Tenants: their accounts, what each may have, and what none can have."""
