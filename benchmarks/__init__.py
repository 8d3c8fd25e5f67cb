"""Speed and memory of storyteller beside its peers; see README.md.  Run by hand, no tests."""
