"""Names of the files that a probe run writes to its workdir.

They have a file of their own so that the check whether a run is finished imports nothing else.
"""

PREDICTIONS, STUDIES, METRICS = "predictions.csv", "studies.csv", "metrics.json"
ABOUT, HEAD = "probe.json", "head.safetensors"  # what the head is, and its weights
HEADS = "heads.safetensors"  # heads of the grid, whose spread tells how certain a prediction is
WORST = "worst.npz"  # strips of the worst and best predictions, for the report
