"""What all estimators share: data in blocks, progress, checkpoints, and checks of what an estimate may have missed."""
