"""Recordings of others, imported into the house layout: a picture is a path again, and nobody else need know."""
