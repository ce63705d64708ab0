"""Takes in the formats of other tools, and masks back from them (docs/exports.md)."""
