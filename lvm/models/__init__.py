"""Next-vector networks, the projection head, and the ladder of trivial predictors."""
