"""What can go wrong with the stack, each as one sentence that says what to do."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot do what was asked. The text is shown to a person as it is, without a traceback."""
