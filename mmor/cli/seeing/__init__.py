"""`mmor view | report | export | import`: takes and results for people and for other tools."""
