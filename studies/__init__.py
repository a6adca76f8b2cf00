"""Studies: questions answered by a search. The machinery is here, the questions are in `questions/`, one per file."""
