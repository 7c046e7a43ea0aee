"""Names of the files that a probe run writes to its workdir.

They are only here, so that a program that checks whether a run is finished imports nothing else.
"""

PREDICTIONS, STUDIES, METRICS = "predictions.csv", "studies.csv", "metrics.json"
ABOUT, HEAD = "probe.json", "head.safetensors"  # what the head is, and its weights
WORST = "worst.npz"  # pictures of the worst predictions, for the report
