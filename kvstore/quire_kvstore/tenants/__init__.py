"""Tenants: their accounts, what each may have, and what nobody can have."""
