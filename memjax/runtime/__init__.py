"""What runs an agent: configs, workdirs, checkpoints, metrics, training, evaluation, reports."""
