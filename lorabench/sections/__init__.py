"""Parts of the report page: plug-ins. Each has ORDER, TITLE and section(view) -> Section | None."""
