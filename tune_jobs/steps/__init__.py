"""The steps of the tree, one file each: the failure report's five, ours, and open questions."""
