"""Estimates the time of configs/evaluation/public.py on one H100, from FLOPs; nothing is measured.

    python -m tests.benchmarks.evaluation_time

For ViT-L at its own size: FLOPs of encoder passes and of heads with self-attention, at 40 % of the
data sheet's peak (bfloat16 for the encoder; TF32, half of it, for heads, which are float32), and
bytes of tokens on disk. A head attentive-1 takes the time of reading its tokens; linear and MLP
heads read next to nothing. Numbers of videos are those of the sets' publications; the ones marked
with * are assumed.
"""

from configs.evaluation import public
from echojepa_jax.costs.chips import GPUS
from echojepa_jax.costs.flops import transformer
from echojepa_jax.data.clips.perturbations import severities

TOKENS, WIDTH, DEPTH, HIDDEN = 8 * 14 * 14, 1024, 24, 4096  # ViT-L, 16 frames of 224 px
SHARE, READING = 0.4, 2e9  # of the peak; bytes/s of a disk
# Videos for training, and all of them. Of MIMIC, only A4C is trained on.
SETS = {
    "echonet_dynamic": (7465, 10030),
    "echonet_pediatric": (6240, 7800),
    "camus": (800, 1000),
    "tmed2*": (8000, 10000),
    "mimic_iv_echo": (23357, 29196),
}
TEST = 1277


def main() -> None:
    config = public.get_config()
    peak = GPUS["h100"].flops
    encoder = transformer(TOKENS, WIDTH, DEPTH, HIDDEN)
    clip_bytes = TOKENS * WIDTH * 2
    print(f"encoder: {encoder / 1e12:.2f} TFLOP a clip; {clip_bytes / 1e6:.1f} MB of tokens")
    for name, (_, videos) in SETS.items():
        clips = videos * (1 if name.startswith("tmed2") else config.clip.count)
        show(name, clips, encoder, peak, clip_bytes)
    degraded = sum(len(severities(kind)) for kind in public.PERTURBATIONS)
    show("degraded test videos", TEST * config.clip.count * degraded, encoder, peak, clip_bytes)
    grid = len(config.probe.attentive_rates) * len(config.probe.weight_decays)
    for name in ("echonet_dynamic", "echonet_pediatric", "camus"):
        train = SETS[name][0]
        head = transformer(config.clip.count * TOKENS, WIDTH, 3, 4 * WIDTH)
        work = 3 * head * grid * train * config.probe.epochs
        read = train * config.clip.count * clip_bytes * config.probe.epochs
        print(
            f"{name}: a grid of attentive-4, one seed: {work / (SHARE * peak / 2) / 3600:.1f} h; "
            f"attentive-1: {read / READING / 3600:.2f} h to read {read / 1e9:,.0f} GB"
        )


def show(name: str, clips: int, encoder: float, peak: float, clip_bytes: int) -> None:
    hours = clips * encoder / (SHARE * peak) / 3600
    print(f"{name}: {clips:,} clips, {hours:.2f} h, {clips * clip_bytes / 1e9:,.0f} GB")


if __name__ == "__main__":
    main()
