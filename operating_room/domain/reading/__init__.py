"""From the YAML file of a domain to its objects; every mistake with the line it stands in."""
