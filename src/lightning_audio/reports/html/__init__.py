"""Pages of results: one file each, that opens from the disk and asks nothing of the network."""
