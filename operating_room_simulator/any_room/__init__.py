"""Simulated takes of whatever operating room a domain describes, in the house layout or as EgoExOR's files."""
