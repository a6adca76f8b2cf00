"""The suite under load: stores of many runs, many processes that log at once, and long trainings."""
