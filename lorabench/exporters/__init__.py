"""File formats of a table: plug-ins. Each has EXTENSION and export(table) -> str."""
