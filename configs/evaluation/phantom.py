"""The whole evaluation suite on simulated hearts, at a reduced size.

Command:   python -m echojepa_jax.evaluate --config=configs/evaluation/phantom.py \
             --weights=runs/demo --workdir=runs/evaluation
Hardware:  two CPU cores.
Duration:  11 minutes for this command (three models); less than 25 minutes with runs/demo_mae as
           well (five models, because each architecture has its own random weights).
Expect:    the demo's error of the ejection fraction is 7.1 points for a video and 5.0 for several
           views. Principal components of pixels are better, see docs/results.

Attentive heads on all 512 tokens of a clip would take hours on a CPU. Here a clip is 8 tokens, one
for each time step (features.tokens = "steps").
"""

from ml_collections import ConfigDict

VIEWS = ("A2C", "A4C", "PLAX", "PSAX")
PERTURBATIONS = (
    "h264",
    "radial_attenuation",
    "depth_attenuation",
    "shadow",
    "haze",
    "speckle_smoothing",
    "gain",
    "dynamic_range",
    "dropped_frames",
)


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.only = ()  # all data
    config.weights = ()  # name yours with --weights
    config.controls = ("initial", "pca")
    config.pca_data = "adult"

    splits = dict(train_split="train", val_split="val", test_split="test")
    files = dict(max_bad_share=0.0, workers=2)
    config.data = dict(
        adult=dict(sources=("phantom:adult,patients=500,views=2,seed=0",), **splits, **files),
        pediatric=dict(
            sources=("phantom:pediatric,patients=100,views=2,seed=0",), **splits, **files
        ),
    )
    config.clip = dict(
        frames=0, size=0, more_sizes=(), sample_by="", sample_value=0.0, count=1, place="spread"
    )
    config.features = dict(tokens="steps", dtype="float32", encoder_dtype="float32", workers=0)
    config.probe = dict(
        learning_rates=(3e-2, 1e-2, 3e-3),
        attentive_rates=(3e-3, 1e-3),
        mask_rates=(3e-1, 1e-1, 3e-2),
        weight_decays=(0.1,),
        standardise=True,
        epochs=15,
        batch=32,
        heads=4,
        hidden=128,
    )
    adult = dict(data="adult", target="ef", views=())
    config.tasks = dict(
        lvef=dict(
            kind="regression", seeds=(0, 1, 2), heads=("attentive-1",), by_study=True, **adult
        ),
        heads=dict(
            kind="regression",
            seeds=(0, 1, 2),
            heads=("linear", "pca64-linear", "mlp", "attentive-1", "attentive-4"),
            by_study=False,
            **adult,
        ),
        views=dict(
            kind="classification",
            seeds=(0, 1, 2),
            data="adult",
            target="view",
            views=(),
            heads=("linear",),
            shares=(1.0, 0.1, 0.01),
            subsets=("patient", "video"),
            lengths=("epochs", "updates"),
            class_weights=False,
            focal_gamma=0.0,
            by_study=False,  # a study has several views
        ),
        multiview=dict(
            kind="multiview",
            seeds=(0, 1, 2),
            data="adult",
            target="ef",
            views=VIEWS,
            head="attentive-1",
            view_dropout=0.1,
            ablations=True,
        ),
        pediatric=dict(
            kind="transfer",
            seeds=(0, 1, 2),
            to="pediatric",
            alone=("A4C", "PSAX"),
            ages=(),
            head="attentive-1",
            **adult,
        ),
        robustness=dict(
            kind="robustness",
            seeds=(0, 1, 2),
            head="attentive-1",
            perturbations=PERTURBATIONS,
            **adult,
        ),
        segmentation=dict(
            kind="segmentation",
            seeds=(0, 1, 2),
            data="adult",
            views=("A2C", "A4C"),
            structures=("LV", "myocardium", "LA"),
            heads=("linear+place", "linear"),
            ef="ef",
        ),
        geometry=dict(kind="geometry", seeds=(0,), data="adult"),
    )
    config.bootstrap = 1000
    return config
