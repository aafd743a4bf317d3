"""Networks that predict the next vector, the projection head, and the ladder of trivial predictors."""
