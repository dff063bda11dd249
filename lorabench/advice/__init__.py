"""What to choose: candidates, what speaks for each, and their order. No torch; memory is handed in."""
