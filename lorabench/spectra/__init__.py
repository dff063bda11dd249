"""What was learned: singular values of the deltas."""
