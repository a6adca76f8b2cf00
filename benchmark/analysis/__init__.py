"""Turn results into tables and figures, next to the published numbers."""
