"""The harness: all that a run needs, and nothing about one method."""

__version__ = "0.1.0"
