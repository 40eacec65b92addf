"""The wire between engines and the kvstore: messages, codec, digests and the client library."""

__version__ = "0.1.0"  # of the whole distribution, quire-kv; the wire has its own (``envelope.VERSION``)
