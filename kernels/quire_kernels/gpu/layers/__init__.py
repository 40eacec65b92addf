"""What stands between products and attention in a decoder's layer, each in one launch: norms, rotary positions, gates.

They round where PyTorch's chains of operations round, so that a layer gives what it gave. Arguments come with the dtype
of the model; every sum and function is float32.
"""
