"""What exists in an operating room, and how its recordings lie on disk: one object that is handed in."""
