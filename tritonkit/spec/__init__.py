"""What the user wrote: read from YAML with the line of every value, validated, frozen."""
