"""Whose request is next: shares of what is scarce, weights of tenants, and which requests are not admitted at all."""
