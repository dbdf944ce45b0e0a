"""Run folders, and the trained model with its data: for the command line and for studies."""
