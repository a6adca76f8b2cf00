"""How the scheduler grows: the real planner and execution of a plan, on simulated workers."""
