"""Bundles: runs, teachers and checkpoints of a runs folder as files that another machine takes in."""
