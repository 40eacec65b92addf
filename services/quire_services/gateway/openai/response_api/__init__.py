"""The Responses API: its requests said as chats, its answers, and what is kept of them for requests that go on."""
