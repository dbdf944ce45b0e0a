"""Estimators from independent draws, their proposals, and guides refitted to each datum."""
