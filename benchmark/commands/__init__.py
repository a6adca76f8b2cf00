"""What the commands do, once their arguments are accepted. The doors, which parse them, import this last."""
