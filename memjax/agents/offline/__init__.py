"""What agents that learn from recorded episodes share, and the baselines among them."""
