"""Load on a real server with the bundled model: what the server promises, kept or broken."""
