"""A page that shows takes second by second, served to this machine's browser (docs/viewer.md)."""
