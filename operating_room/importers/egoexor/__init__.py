"""EgoExOR (NeurIPS 2025, arXiv 2505.24287): its HDF5 files, both releases, into the house layout."""
