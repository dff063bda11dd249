"""The command line: what a user types, and the words that come back."""
