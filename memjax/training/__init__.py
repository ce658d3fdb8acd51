"""What trains and evaluates an agent: its config, the three programs, and the one loop."""
