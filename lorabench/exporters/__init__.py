"""File formats of a table: plug-ins."""
