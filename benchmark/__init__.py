"""The harness: everything that a run needs, and nothing about a particular method."""

__version__ = "0.1.0"
