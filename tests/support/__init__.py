"""What tests share. Look here before you write a helper; a test folder's ``conftest.py`` only makes fixtures of these.

- ``waits``: ``wait_for``, the one way to wait for something.
"""
