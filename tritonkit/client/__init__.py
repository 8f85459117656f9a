"""One server, asked directly: its health, its models, and one inference at a time."""
