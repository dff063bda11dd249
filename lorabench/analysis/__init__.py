"""What it means: pandas and scipy, no torch."""
