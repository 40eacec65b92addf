"""Dashboard: the operator's picture of the pool, the engines and the tenants, and the page that draws it."""
