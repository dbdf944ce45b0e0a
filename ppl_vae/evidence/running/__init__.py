"""The parts that all estimators have in common: blocks of data, progress, checkpoints, and checks for missed mass."""
