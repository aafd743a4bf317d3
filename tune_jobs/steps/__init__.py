"""The five steps of the failure report, one file each; a new file here is a new step."""
