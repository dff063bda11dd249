"""Where cells run: plug-ins."""
