"""Draw a map of embeddings, coloured by labels: principal components or UMAP.

  python -m echojepa_jax.map --embeddings=out/phantom --colour=view --colour=ef --out=out/map.png
  python -m echojepa_jax.map --embeddings=out/embeddings --colour=site --labels=sites.csv \\
      --method=umap --out=out/map.png

The embeddings are those of `embed`; each point is a video. A label is a column of the embeddings
(view, source, split, study, patient), a column of the table that --labels names, or a label of the
sources that the embeddings were made from. For classes, two numbers tell how well the embeddings
separate them: the silhouette, and the accuracy of logistic regression in folds by patient.
"""

from pathlib import Path

from absl import flags

from echojepa_jax import command_line

EMBEDDINGS = flags.DEFINE_string("embeddings", None, "folder of embeddings, the --out of embed")
COLOUR = flags.DEFINE_multi_string(
    "colour", ["view"], "a label to colour by, such as view, ef or source; may be repeated"
)
LABELS = flags.DEFINE_string(
    "labels", "", "a CSV file with labels, and a column name, study or patient as in the embeddings"
)
METHOD = flags.DEFINE_enum(
    "method", "pca", ["pca", "umap"], "method of the map; umap needs the extra [umap]"
)
OUT = flags.DEFINE_string("out", None, "the picture to write: .png, .svg or .pdf")


def job() -> str:
    """Runs what the flags say; returns the last line of the program."""
    from echojepa_jax.report.embedding_pictures import write_map
    from echojepa_jax.utils.buckets import on_disk

    folder, out = on_disk(str(EMBEDDINGS.value), "embeddings"), on_disk(str(OUT.value), "out")
    table = Path(LABELS.value) if LABELS.value else None
    return write_map(Path(folder), COLOUR.value, Path(out), METHOD.value, table)


if __name__ == "__main__":
    command_line.run(job, needed=("embeddings", "out"))
