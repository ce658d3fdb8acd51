"""Language models and embedders behind one interface: endpoints, caches, budgets."""
