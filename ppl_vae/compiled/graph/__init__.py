"""What is done to a tensor graph: captured, simplified, divided, compiled. It knows no program."""
