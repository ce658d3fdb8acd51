"""Which slot a write takes: policies, and the tree and queue behind them."""
