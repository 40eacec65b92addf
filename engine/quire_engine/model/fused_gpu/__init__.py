"""Fewer launches on a GPU, wherever that is proved to give what the model's own layers give.

Between its products and attention a layer of transformers launches some thirty small kernels, which take less time than
Python needs to launch them: a step that is no graph's, one with a prompt in it, waits for the host. Norms, rotary
positions and gates become one launch each.
"""

from .layers import fuse_gpu_layers
from .rotary import fuse_gpu_rotary

__all__ = ["fuse_gpu_layers", "fuse_gpu_rotary"]
