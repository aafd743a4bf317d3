"""Next-vector networks and the projection head."""
