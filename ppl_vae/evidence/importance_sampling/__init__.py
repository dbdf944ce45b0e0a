"""Estimators from independent draws, the proposals that these come from, and guides refitted to each datum."""
