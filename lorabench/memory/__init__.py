"""What training needs before it runs: one step traced on the meta device, and what follows from it for a GPU."""
