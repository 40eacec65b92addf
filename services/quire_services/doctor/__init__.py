"""`quire doctor`: what is wrong with this host, this configuration and this stack, and what to do about it.

It looks from outside, with or without a stack that runs, and changes nothing but the cache of compiled kernels. Each
check is bounded in time and independent of the others: a part that is broken, stopped or another user's is a finding,
never the end of the examination. No key and no prompt is ever printed.
"""
