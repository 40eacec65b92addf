"""The admin API: its routes, its token, and how it is asked. What it is asked, the kvstore decides."""
