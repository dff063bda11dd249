"""How frozen base weights are stored: thin plug-ins over bitsandbytes."""
