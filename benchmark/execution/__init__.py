"""From a plan to finished runs: find the runs that are left, group them into cohorts, train and record them."""
