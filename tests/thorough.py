"""Whether the slow tests run too: laws try twice as many examples then. ``tests/conftest.py`` sets it."""

SLOW = False
