"""Files of other trainers that carry out a recommendation: plug-ins, one a tool."""
