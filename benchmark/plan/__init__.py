"""Plans: suites, and their resolution into runs."""
