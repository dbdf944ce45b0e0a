"""Speed as ratios to peers that are measured in the same run. Absolute times mean nothing on shared machines."""
