"""Each core operation and each training step, timed beside its floor and its peers."""
