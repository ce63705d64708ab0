"""Reports: results files as one self-contained page and as CSV."""
