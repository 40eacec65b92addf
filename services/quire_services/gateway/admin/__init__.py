"""The admin API: its routes and its token. What it is asked, the kvstore decides."""
