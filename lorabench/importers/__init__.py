"""Results of other programs, read into a results directory: plug-ins. Each has read(request) -> Readout."""
