"""Readers: how bodies come in and are read, short ones here, long ones in processes of their own."""
