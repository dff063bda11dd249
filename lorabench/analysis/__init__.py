"""What the results mean: conditions, comparisons, findings. pandas and scipy; never torch."""
