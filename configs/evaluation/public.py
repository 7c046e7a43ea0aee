"""The paper's evaluation on public data sets, and what it lacks (see docs/evaluation.md).

Command:   python -m echojepa_jax.evaluate --config=configs/evaluation/public.py \
             --weights=out/encoder --workdir=runs/public
Hardware:  one GPU of 80 GB; disk for all tokens, about 0.6 TB for each ViT-L at 224 px.
Duration:  not measured; estimated at 3.5 hours for one seed of one ViT-L on both EchoNet sets,
           see docs/evaluation.md.
Expect:    the paper's EchoJEPA-L: MAE of EF 5.76 points on EchoNet-Dynamic; 6.31 (zero-shot) and
           5.12 (own probe) on EchoNet-Pediatric; robustness +2.3 % on average. The tables show
           the paper's numbers beside yours.

Change the paths below once, in your copy or with --config.data.NAME.sources. If you have only some
of the sets, name them: --config.only="('echonet_dynamic',)" leaves out the others, with their
tasks. Options after a path choose splits and tables: see docs/public_sets.md. The path of a
prepared set may stand in the place of any source.
"""

from ml_collections import ConfigDict

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
SEEDS = (0, 1, 2)


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.only = ()  # the sections of `data` that you have; () = all
    config.weights = ()  # name yours with --weights
    config.controls = ("initial", "pca")
    config.pca_data = "echonet_dynamic"

    files = dict(
        train_split="train", val_split="val", test_split="test", max_bad_share=0.01, workers=16
    )
    config.data = dict(
        echonet_dynamic=dict(sources=("echonet_dynamic:/data/EchoNet-Dynamic",), **files),
        # Folds 0 to 7 are for training: the paper does not say which ones it used.
        echonet_pediatric=dict(
            sources=("echonet_pediatric:/data/EchoNet-Pediatric,val=8,test=9",), **files
        ),
        camus=dict(sources=("camus:/data/CAMUS_public",), **files),
        tmed2=dict(
            sources=("tmed2:/data/TMED2,table=DEV479/TMED2_fold0_labeledpart.csv",), **files
        ),
        # Only the files that ECHOVIEW gives a view, which are 29,196 of 525,000.
        mimic_iv_echo=dict(
            sources=(
                "mimic_iv_echo:/data/mimic-iv-echo,views=/data/echoview.csv,without_view=skip",
            ),
            **files,
        ),
    )
    # As in the paper, but centred: two clips of 16 frames, every second frame. Size as pretrained,
    # and 112 px, the size of the EchoNet videos, at which the paper tested its encoders.
    config.clip = dict(
        frames=0,
        size=0,
        more_sizes=(112,),
        sample_by="stride",
        sample_value=2.0,
        count=2,
        place="spread",
    )
    config.features = dict(tokens="all", dtype="float16", encoder_dtype="bfloat16", workers=16)
    # The paper's grids: six attentive heads, nine linear ones; 20 epochs with batches of 8.
    config.probe = dict(
        learning_rates=(1e-2, 1e-3, 1e-4),
        attentive_rates=(1e-4, 5e-5),
        mask_rates=(1e-1, 1e-2, 1e-3),
        weight_decays=(0.01, 0.1, 0.4),
        standardise=False,
        epochs=20,
        batch=8,
        heads=16,
        hidden=1024,
    )
    ef = dict(target="ef", views=())
    adult = dict(data="echonet_dynamic", **ef)
    config.tasks = dict(
        dynamic_lvef=dict(
            kind="regression",
            seeds=SEEDS,
            heads=(
                *("attentive-4", "attentive-1", "mean-attentive-4"),
                *("mlp", "linear", "pca512-linear"),
            ),
            by_study=False,
            **adult,
        ),
        dynamic_robustness=dict(
            kind="robustness", seeds=SEEDS, head="attentive-4", perturbations=PERTURBATIONS, **adult
        ),
        dynamic_segmentation=dict(
            kind="segmentation",
            seeds=SEEDS,
            data="echonet_dynamic",
            views=(),
            structures=("LV",),
            heads=("linear+place", "linear"),
            ef="ef",
        ),
        dynamic_geometry=dict(kind="geometry", seeds=(0,), data="echonet_dynamic"),
        pediatric_lvef=dict(
            kind="transfer",
            seeds=SEEDS,
            to="echonet_pediatric",
            alone=("A4C", "PSAX"),
            ages=(1.0, 6.0, 12.0),
            head="attentive-4",
            **adult,
        ),
        camus_lvef=dict(
            kind="regression",
            seeds=SEEDS,
            data="camus",
            heads=("attentive-4", "attentive-1", "linear"),
            by_study=True,
            **ef,
        ),
        camus_segmentation=dict(
            kind="segmentation",
            seeds=SEEDS,
            data="camus",
            views=(),
            structures=("LV", "myocardium", "LA"),
            heads=("linear+place", "linear"),
            ef="ef",
        ),
        camus_views=dict(
            kind="classification",
            seeds=(0, 1, 2, 3, 4),
            data="camus",
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
        tmed2_views=dict(
            kind="classification",
            seeds=(0, 1, 2, 3, 4),
            data="tmed2",
            target="view",
            views=(),
            heads=("attentive-1", "linear"),
            shares=(1.0, 0.1, 0.01),
            subsets=("patient", "video"),
            lengths=("epochs", "updates"),
            class_weights=False,
            focal_gamma=0.0,
            by_study=False,  # a study has several views
        ),
        # These views show the aortic valve.
        tmed2_stenosis=dict(
            kind="classification",
            seeds=SEEDS,
            data="tmed2",
            target="stenosis",
            views=("PLAX", "PSAX"),
            heads=("attentive-1", "linear"),
            shares=(1.0,),
            subsets=("patient",),
            lengths=("epochs",),
            class_weights=True,
            focal_gamma=0.0,
            by_study=True,
        ),
        # Views are named as in the table of views. A name that it lacks is an error that lists
        # those that it has.
        mimic_lvef=dict(
            kind="regression",
            seeds=SEEDS,
            data="mimic_iv_echo",
            target="lvef",
            views=("A4C",),
            heads=("attentive-4", "attentive-1", "linear"),
            by_study=True,
        ),
        mimic_rvsp=dict(
            kind="multiview",
            seeds=SEEDS,
            data="mimic_iv_echo",
            target="rvsp",
            views=("A4C", "PSAX"),
            head="attentive-4",
            view_dropout=0.1,
            ablations=True,
        ),
        mimic_views=dict(
            kind="classification",
            seeds=SEEDS,
            data="mimic_iv_echo",
            target="view",
            views=(),
            heads=("linear",),
            shares=(1.0,),
            subsets=("patient",),
            lengths=("epochs",),
            class_weights=False,
            focal_gamma=0.0,
            by_study=False,  # a study has several views
        ),
    )
    config.bootstrap = 1000
    return config
