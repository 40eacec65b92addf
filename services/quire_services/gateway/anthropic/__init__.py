"""Anthropic's API: ``/v1/messages`` as a chat request, and a chat's answer as a message.

Nothing here renders, encodes or generates: a message request becomes the body of a chat (``chat_request``), so that
templates, tools, grammars, limits and turns are those of chats, and what comes of it is told in this API's words
(``message_answer``, ``api_errors``).
"""
