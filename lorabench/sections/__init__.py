"""Parts of the report page: plug-ins."""
