"""The wire between engines and the kvstore: messages, codec, digests and the client library."""
