"""Options that several commands have, and how command lines become plain settings."""
