"""HTML reports of training runs, probe runs and prepared sets."""
