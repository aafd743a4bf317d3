"""Documents to chunks to vectors to windows, and the file formats in between."""
