"""The catalogue: every id that `quire doctor` can print, and its severity. Ids are for scripts too: none changes its
meaning. Each problem has a section of its own in docs/operate/doctor.md, where its fix is explained.
"""

from __future__ import annotations

# What is as it should be: what was looked at, in one line each.
FACTS = (
    "kernel", "namespaces", "limits", "shared-memory", "memory", "allocator", "gpu", "run-dir", "state", "ports",
    "keys", "model", "shared-weights", "packages", "cpu-kernels", "preload", "processes", "kvstore", "gateway",
)  # fmt: skip

PROBLEMS = {
    # the examination itself
    "check-failed": "error",
    "check-timeout": "error",
    # configuration and keys
    "config-invalid": "error",
    "key-weak": "warning",
    "keys-missing": "error",
    "keys-readable": "warning",
    "admin-token-unusable": "error",
    "prompt-unreadable": "error",
    # the host
    "kernel-too-old": "error",
    "peer-pidfd-missing": "info",
    "open-files-low": "warning",
    "tasks-low": "warning",
    "address-space-limited": "error",
    "file-size-limited": "error",
    "allocator-setting": "info",
    # memory
    "shm-unusable": "error",
    "shm-small": "error",
    "shm-full": "error",
    "leftover-segment": "warning",
    "memory-short": "error",
    # the GPU
    "gpu-absent": "info",
    "gpu-bindings-missing": "error",
    "gpu-node-forbidden": "error",
    "gpu-hidden": "warning",
    "gpu-unusable": "error",
    "gpu-not-shareable": "error",
    "gpu-vmm-impossible": "info",
    "gpu-driver-old": "warning",
    "gpu-mig": "info",
    "triton-missing": "error",
    # the run directory
    "run-dir-not-private": "error",
    "run-dir-too-long": "error",
    "run-dir-unwritable": "error",
    "socket-permissions": "error",
    "stale-socket": "warning",
    "foreign-file": "error",
    "root-key-unusable": "error",
    "state-unusable": "error",
    # ports
    "port-taken": "error",
    "port-refused": "error",
    # the model and what computes it
    "model-not-named": "info",
    "model-not-found": "error",
    "model-not-fetched": "info",
    "model-unreadable": "error",
    "model-unusable": "error",
    "weights-unusable": "error",
    "weights-exceed-memory": "error",
    "weights-not-shared": "warning",
    "tokenizer-missing": "error",
    "package-missing": "warning",
    "kernel-not-compiled": "warning",
    "preload-unusable": "warning",
    # what runs
    "processes-unseen": "info",
    "supervisor-gone": "warning",
    "process-gone": "error",
    "process-stopped": "error",
    "process-restarts": "warning",
    "process-outdated": "info",
    "kvstore-silent": "error",
    "version-mismatch": "error",
    "layout-mismatch": "error",
    "session-fenced": "warning",
    "session-unkillable": "info",
    "blocks-quarantined": "warning",
    "pool-exhausted": "warning",
    "engine-not-ready": "warning",
    "gateway-silent": "error",
    "gateway-unavailable": "error",
}
