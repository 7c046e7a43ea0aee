"""Names of what a probe run leaves in its workdir.

Here and nowhere else, as a program that only looks whether a run is finished imports nothing more.
"""

PREDICTIONS, STUDIES, METRICS = "predictions.csv", "studies.csv", "metrics.json"
ABOUT, HEAD = "probe.json", "head.safetensors"  # what the head is, and its weights
