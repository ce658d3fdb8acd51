"""AdaMemento (arXiv 2410.04498): success and failure memories beside PPO, for sparse rewards."""
