"""From a plan to finished runs: which are left, in which cohorts, where they run, what is recorded."""
