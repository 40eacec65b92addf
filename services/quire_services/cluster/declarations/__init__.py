"""Declarations: tenants, keys, quotas, groups and publications said once, and true on every node seconds later.

    operator's file -> records in a store (versions, tombstones, compare-and-set)      operator_file, records, stores/
    store -> each node's follower -> that node's admin API                             follower, reconciler, node_admin
    a cluster's quota -> a share for each node, moved to where it is used              shares, share_ledger

The store is Valkey, or a directory. Nodes that do not reach it go on with what they have (``node_files``).
"""
