"""What is learned: plug-ins that turn data into examples."""
