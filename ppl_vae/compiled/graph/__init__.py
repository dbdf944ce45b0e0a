"""Tensor graphs: capturing, simplification, division and compilation, independent of programs."""
