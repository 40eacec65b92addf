"""Tools: what a model writes when it calls tools or reasons, as an answer of the API and as a grammar.

A library without input and output of its own. One description of how a family of models writes (``formats``) serves
both ways: the parser reads an answer with it (``parser``), the grammar holds a model to it (``grammar``). Which
description a model needs is found out from its chat template (``format_choice``), once (``model_answers``).

    text and special tokens -> parser -> events -> shapes -> objects of an API
    tools, choice, content  -> grammar -> text for llguidance, in the engine

Reading order: ``formats.tool_format``, ``formats.families``, ``parser.events``, ``parser.answer_parser``,
``grammar.answer_grammar``, ``format_choice``, ``model_answers``, ``shapes.chat_messages``.
"""
