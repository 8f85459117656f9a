"""What the three backends share: reading requests, making batches of them, splitting the answers."""
