"""Pure functions of reinforcement learning: returns, losses, intrinsic rewards, running statistics."""
