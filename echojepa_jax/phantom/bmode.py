"""The phantom's probe: turns a moving heart into a B-mode video.

The heart is painted once, at end diastole, on a grid of material coordinates: the amplitude of
every tissue times a complex Gaussian scatterer field. For each frame, every point of the beam grid
(depth x angle) samples the painted field at the material that lies there, so that speckle moves and
deforms with the tissue. Then follow the point-spread function (constant in angle, so it widens with
depth), envelope detection, gain, log compression and scan conversion.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import cv2
import numpy as np

from echojepa_jax.phantom.heart import (
    REST,
    Instant,
    Scene,
    chambers,
    ellipse,
    leaflets,
    smoothstep,
    valves,
)
from echojepa_jax.phantom.motion import Motion

# Echo levels in dB below full white.
BLOOD, MUSCLE, FAT, ANNULUS, LEAFLET = -66.0, -25.0, -37.0, -16.0, -15.0
PERICARDIUM, THIN_RIM = -7.0, -13.0  # outer rim of the LV; of all other chambers
# Numbers of a scene's random streams; stream 0 draws the scene itself.
PAINT, ECHOES, GAIN = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Beams:
    """Samples along the beams.

    x, y: probe coordinates in cm, float32 [depths, angles].
    column, row: the position in that grid of each pixel of the picture, float32 [size, size], in
      the form that cv2.remap takes.
    """

    x: np.ndarray
    y: np.ndarray
    column: np.ndarray
    row: np.ndarray


def lay_beams(scene: Scene) -> Beams:
    """The beams of a scene; a larger picture has more samples, hence a finer point spread."""
    depths, angles, wide = int(1.5 * scene.size), int(1.4 * scene.size), scene.patient.half_angle
    r, turn = np.linspace(0, scene.depth, depths)[:, None], np.linspace(-wide, wide, angles)[None]
    across, down = (np.arange(scene.size) - scene.tip[:, None]) * scene.spacing
    column, row = beam_index(scene, across[None, :], down[:, None], (depths, angles))
    grids = (r * np.sin(turn), r * np.cos(turn), column, row)
    return Beams(*(grid.astype(np.float32) for grid in grids))


def beam_index(
    scene: Scene, x: np.ndarray, y: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Fractional (column, row) in the beam grid of the probe coordinates x, y."""
    column = (np.arctan2(x, y) / scene.patient.half_angle + 1) / 2 * (shape[1] - 1)
    return column, np.hypot(x, y) / scene.depth * (shape[0] - 1)


@dataclasses.dataclass(frozen=True)
class Painting:
    """Scatterers in local coordinates at end diastole.

    field: [H, W, 2] (real, imaginary); element (i, j) lies at (p, q) = origin + pitch * (j, i).
    """

    field: np.ndarray
    origin: tuple[float, float]
    pitch: float


def scatter(amplitude: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fully developed speckle, [H, W] -> [H, W, 2]: a sum of many scatterers, hence Gaussian."""
    noise = rng.standard_normal((*amplitude.shape, 2), dtype=np.float32)
    # The blur limits the bandwidth, so that sampling between grid points neither loses power nor
    # decorrelates; the factor restores unit power for white noise of unit amplitude.
    sigma = 0.8
    blurred = cv2.GaussianBlur(noise * amplitude[..., None].astype(np.float32), (0, 0), sigma)
    return blurred * np.float32(sigma * math.sqrt(2 * math.pi))


def paint(scene: Scene, beams: Beams) -> Painting:
    """Paints everything that the beams can reach, with the sample distance of the beams."""
    rng = scene.rng(PAINT)
    p, q = scene.to_local(beams.x, beams.y, REST)
    pitch, margin = scene.depth / beams.x.shape[0], 0.5 * scene.patient.radius
    left, top = float(p.min()) - margin, float(q.min()) - margin
    shape = (int((q.max() + margin - top) / pitch), int((p.max() + margin - left) / pitch))
    grid = np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), -1).astype(np.float32)
    levels = echo_levels(scene, grid * pitch + np.array([left, top], np.float32), rng)
    return Painting(scatter(10 ** (levels / 20), rng), (left, top), pitch)


def echo_levels(scene: Scene, local: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Echo level of the material in dB, [H, W], on the regular grid `local` [H, W, 2] of (p, q)."""
    patient = scene.patient
    p, q = local[..., 0], local[..., 1]
    pitch = float(p[0, 1] - p[0, 0])
    outlines = chambers(scene)
    blood = [filled(outline, local) for outline, _ in outlines]
    away = np.stack([cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5) * pitch for mask in blood])
    beyond = away - np.array([wall for _, wall in outlines])[:, None, None]

    patches, ripples = _patches(p.shape, 9, rng), _patches(p.shape, 40, rng)
    rough = patient.wall * (0.12 * patches + 0.06 * ripples)
    outside = cv2.GaussianBlur(beyond.min(0), (0, 0), 1.5) + rough  # distance from the heart
    reach = np.hypot(*np.moveaxis(scene.to_probe(local, REST), -1, 0))
    # Surfaces across the beam reflect; those along it drop out.
    slopes = np.array(np.gradient(outside, pitch)) * np.array(np.gradient(reach, pitch))
    facing = np.abs(slopes.sum(0)).clip(0, 1)

    muscle = MUSCLE + patient.muscle + 3 * patches + 2 * ripples - 8 * (1 - facing)
    surroundings = FAT + 9 * patches + 4 * ripples - 2 * np.clip(outside / patient.radius, 0, 4)
    level = np.where(outside < 0, muscle, surroundings)
    rim = np.abs(outside - 0.04 * patient.radius) < 0.06 * patient.radius
    brightest = np.where(beyond.argmin(0) == 0, PERICARDIUM, THIN_RIM)
    shine = brightest - 10 * (reach < 0.5 * scene.depth) - 16 * (1 - facing) + 3 * ripples
    level = np.where(rim, np.maximum(level, shine), level)
    level = np.where(away[0] < 0.08 * patient.radius, level + 6 * facing, level)  # endocardium
    level = np.where(np.any(blood, axis=0), BLOOD, level)
    radius, below = patient.radius, q - patient.length  # the base
    for first, second, _ in valves(scene):
        orifice = (p > first) & (p < second) & (np.abs(below - 0.1 * radius) < 0.35 * radius)
        level = np.where(orifice, BLOOD, level)
        for hinge in (first, second):
            ring = np.hypot(p - hinge, below - 0.06 * radius) < 0.11 * radius
            level = np.where(ring, ANNULUS, level)
    if scene.view == "PSAX":
        for p_share in (-0.56, 0.56):
            papillary = ellipse(p_share, 0.38, 0.2, 0.2) * patient.radius
            level = np.where(filled(papillary, local) > 0, muscle, level)
    return level.astype(np.float32)


def filled(outline: np.ndarray, local: np.ndarray) -> np.ndarray:
    """1 inside the outline [n, 2], else 0: uint8 [H, W] on the grid `local` [H, W, 2]."""
    points = (outline - local[0, 0]) / (local[1, 1] - local[0, 0])
    fixed = np.round(points * 16).astype(np.int32)
    return cv2.fillPoly(np.zeros(local.shape[:2], np.uint8), [fixed], 1, shift=4)


def _patches(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """Random variation in about [-1, 1], [H, W], with `count` patches along each side."""
    coarse = rng.uniform(-1, 1, (count, count)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def point_spread(field: np.ndarray) -> np.ndarray:
    """Blurs complex echoes [depths, angles, 2], more across the beams than along them."""
    return cv2.GaussianBlur(field, (0, 0), sigmaX=1.7, sigmaY=0.6)


def envelope(field: np.ndarray) -> np.ndarray:
    """Magnitude of complex echoes, [depths, angles, 2] -> [depths, angles]."""
    return cv2.magnitude(*cv2.split(field))


def gain_map(scene: Scene, beams: Beams) -> np.ndarray:
    """Gain of each position, constant over the video: dB [depths, angles]."""
    u = scene.rng(GAIN).uniform
    r = np.hypot(beams.x, beams.y) / scene.depth
    turn = np.linspace(-1, 1, beams.x.shape[1])[None]
    # Attenuation that the time-gain compensation does not remove, and its uneven sliders.
    level = scene.patient.gain + u(-6, 3) * (r - 0.5)
    level = level + u(0, 3) * np.sin(2 * math.pi * (u(0.5, 1.5) * r + u(0, 1)))
    for side in (-1, 1):  # lung at the sector's edges
        edge = smoothstep((side * turn - u(0.6, 0.85)) / 0.3)
        level = level - u(2, 12) * edge * smoothstep(r / 0.3)
    rib, width = u(0.55, 0.95) * np.sign(u(-1, 1)), u(0.05, 0.12)
    shade = u(6, 18) * (u(0, 1) < 0.6)
    shadow = np.exp(-(((turn - rib) / width) ** 2)) * smoothstep((r - 0.03) / 0.05)
    return (level - shade * shadow).astype(np.float32)


def _drawn_leaflets(scene: Scene, at: Instant, shape: tuple[int, int]) -> np.ndarray:
    """Valve leaflets on the beam grid, float32 [depths, angles], 1 on a leaflet."""
    canvas = np.zeros(shape, np.float32)
    for line in leaflets(scene, at):
        x, y = scene.to_probe(line, at).T
        place = np.stack(beam_index(scene, x, y, shape), -1)
        fixed = np.round(place * 16).astype(np.int32)
        cv2.polylines(canvas, [fixed], isClosed=False, color=1.0, thickness=1, shift=4)
    return canvas


def echoes(scene: Scene, frames: int) -> Iterator[np.ndarray]:
    """Envelope before gain and compression, one float32 [depths, angles] a frame; 1 = white."""
    patient, rng, beams = scene.patient, scene.rng(ECHOES), lay_beams(scene)
    painting, motion = paint(scene, beams), Motion(scene, beams.x, beams.y)
    depths, angles = beams.x.shape
    r = np.hypot(beams.x, beams.y) / scene.depth
    clutter = 10 ** (patient.haze / 20) * np.exp(-r / 0.1) + np.where(r < 0.02, 0.3, 0)
    haze = scatter(clutter, rng)
    noise = scatter(np.full((2 * depths, 2 * angles), 10 ** (patient.noise / 20)), rng)
    rising = (0.6 + r)[..., None]  # the time-gain compensation amplifies noise with depth
    left, top = (np.float32(bound) for bound in painting.origin)
    per_cm = np.float32(1 / painting.pitch)
    for frame in range(frames):
        at = scene.instant(frame)
        p, q = motion.material(at)
        x, y = (p - left) * per_cm, (q - top) * per_cm
        field: np.ndarray = cv2.remap(
            painting.field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        field[..., 0] += np.float32(10 ** (LEAFLET / 20)) * _drawn_leaflets(scene, at, r.shape)
        i, j = rng.integers(depths), rng.integers(angles)
        fresh = rising * noise[i : i + depths, j : j + angles]
        yield envelope(point_spread(field + haze + fresh))


def render(scene: Scene, frames: int) -> np.ndarray:
    """The video: grey, uint8 [frames, size, size], black outside the sector."""
    beams = lay_beams(scene)
    gain = gain_map(scene, beams)
    video = np.empty((frames, scene.size, scene.size), np.uint8)
    for picture, strength in zip(video, echoes(scene, frames), strict=True):
        level = 20 * np.log10(strength + np.float32(1e-6)) + gain
        grey = np.clip(1 + level / np.float32(scene.patient.dynamic_range), 0, 1) * 255
        picture[:] = cv2.remap(
            grey, beams.column, beams.row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
    return video
