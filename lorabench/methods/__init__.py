"""How the base is adapted: thin plug-ins over PEFT's configurations."""
