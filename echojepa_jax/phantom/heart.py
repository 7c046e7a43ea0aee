"""The phantom's heart: the patient, the beat of the left ventricle, and the geometry of each view.

The left ventricle (LV) contracts by exactly the patient's ejection fraction: with v its volume as
a share of end diastole, its length scales with v**a and its width with v**((1 - a) / 2), so that
the disc summation of its contour (modified Simpson, one plane) scales with v. Ejection fraction,
sizes and imaging conditions come from independent draws. Every draw is a pure function of
(population, seed, patient, view). Lengths are in cm, volumes in mL, angles in radians.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

VIEWS = ("A4C", "A2C", "PLAX", "PSAX")
DISCS = 20
# Share of the contraction that the long axis takes. PSAX shows a circle, whose discs sum to a
# sphere: all its axes shrink alike.
LENGTH_SHARE = {"A4C": 0.2, "A2C": 0.2, "PLAX": 0.2, "PSAX": 1 / 3}

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Population:
    """Ranges (low, high) from which patients are drawn uniformly."""

    ef: Range  # per cent
    heart_rate: Range  # beats a minute
    length: Range  # of the LV at end diastole
    aspect: Range  # LV half-width over length
    wall: Range  # thickness
    half_angle: Range  # of the sector


POPULATIONS = {
    "adult": Population(
        ef=(20, 75),
        heart_rate=(52, 100),
        length=(7.2, 9.4),
        aspect=(0.26, 0.31),
        wall=(0.8, 1.2),
        half_angle=(0.60, 0.70),
    ),
    "pediatric": Population(
        ef=(30, 75),
        heart_rate=(85, 150),
        length=(4.2, 6.2),
        aspect=(0.27, 0.32),
        wall=(0.45, 0.7),
        half_angle=(0.52, 0.62),
    ),
}


@dataclasses.dataclass(frozen=True)
class Patient:
    """Anatomy and imaging conditions that all views of one patient share."""

    population: str
    seed: int
    index: int
    ef: float  # as a share, 0 to 1
    heart_rate: float
    length: float  # of the LV
    radius: float  # of the LV at its widest
    wall: float
    right_heart: float  # size of the right ventricle
    right_squeeze: float  # its contraction, unrelated to the LV's
    atrium: float  # half-length of the left atrium
    half_angle: float
    gain: float  # dB
    dynamic_range: float  # dB
    muscle: float  # echogenicity of the walls relative to the mean, dB
    haze: float  # near-field clutter, dB
    noise: float  # of the receiver, dB

    @property
    def id(self) -> str:
        return f"{self.population}-{self.seed}-{self.index:05d}"

    @property
    def edv(self) -> float:
        """LV volume at end diastole, mL: disc summation of the long-axis contour.

        A4C, A2C and PLAX show this contour; PSAX shows one section of it.
        """
        diameters = 2 * self.radius * lv_profile("A4C", disc_positions())
        return float(np.pi / 4 * (diameters**2).sum() * self.length / DISCS)


def draw_patient(population: str, seed: int, index: int) -> Patient:
    ranges = POPULATIONS[population]
    rng = _rng(population, seed, index, 0, 0)
    length = rng.uniform(*ranges.length)
    radius = length * rng.uniform(*ranges.aspect)
    return Patient(
        population=population,
        seed=seed,
        index=index,
        ef=rng.uniform(*ranges.ef) / 100,
        heart_rate=rng.uniform(*ranges.heart_rate),
        length=length,
        radius=radius,
        wall=rng.uniform(*ranges.wall),
        right_heart=radius * rng.uniform(0.95, 1.35),
        right_squeeze=rng.uniform(0.15, 0.4),
        atrium=radius * rng.uniform(0.75, 1.05),
        half_angle=rng.uniform(*ranges.half_angle),
        gain=rng.uniform(-4, 4),
        dynamic_range=rng.uniform(52, 62),
        muscle=rng.uniform(-4, 3),
        haze=rng.uniform(-32, -18),
        noise=rng.uniform(-58, -50),
    )


def _rng(population: str, seed: int, index: int, view: int, purpose: int) -> np.random.Generator:
    """A generator from five numbers; NumPy pads a shorter list with zeros, which could collide."""
    return np.random.default_rng([list(POPULATIONS).index(population), seed, index, view, purpose])


def disc_positions() -> np.ndarray:
    """Centres of the discs along the LV's axis, 0 = apex, 1 = base. [DISCS]"""
    return (np.arange(DISCS) + 0.5) / DISCS


def lv_profile(view: str, u: np.ndarray) -> np.ndarray:
    """Half-width of the LV at the share `u` of its axis, relative to its largest half-width.

    The shape is a bullet, or a circle in PSAX.
    """
    if view == "PSAX":
        return 2 * np.sqrt(np.clip(u * (1 - u), 0, None))
    widest, base = 0.62, 0.74
    cap = 1 - (1 - u / widest) ** 2
    taper = 1 - (1 - base**2) * ((u - widest) / (1 - widest)) ** 2
    return np.sqrt(np.clip(np.where(u < widest, cap, taper), 0, None))


def smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def emptying(phase: float, systole: float) -> float:
    """Ejected share of the stroke volume at `phase` of the beat, which starts at end diastole.

    It is exactly 0 at phase 0 and 1 at `systole`. Then the LV fills in two waves, early and atrial,
    with a pause between them.
    """
    if phase <= systole:
        return 0.5 - 0.5 * math.cos(math.pi * phase / systole)
    filling = (phase - systole) / (1 - systole)
    return float(1 - 0.7 * smoothstep(filling / 0.45) - 0.3 * smoothstep((filling - 0.7) / 0.3))


def mitral_opening(phase: float, systole: float) -> float:
    """Opening of the mitral and tricuspid valves, 0 to 1; they open in the two filling waves."""
    filling = max(phase - systole, 0.0) / (1 - systole)
    early = math.sin(math.pi * min(filling / 0.45, 1))
    atrial = math.sin(math.pi * min(max(filling - 0.7, 0) / 0.3, 1))
    return max(early, 0.7 * atrial)


@dataclasses.dataclass(frozen=True)
class Instant:
    """The heart at one frame."""

    ejected: float  # share of the stroke volume
    width: float  # of the LV, over end diastole
    length: float  # of the LV, over end diastole
    mitral: float  # opening, 0 to 1 (the tricuspid's too)
    aortic: float  # opening, 0 to 1
    shift: tuple[float, float]  # probe motion along the local axes
    turn: float  # probe motion


REST = Instant(
    ejected=0.0, width=1.0, length=1.0, mitral=0.0, aortic=0.0, shift=(0.0, 0.0), turn=0.0
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One video of one patient.

    Probe axes: x to the right and y = depth, with the origin at the sector's apex. Local axes: p
    across the LV and q along it from apex to base, with the origin at the LV's apex (in PSAX, at
    its centre).
    """

    patient: Patient
    view: str
    size: int  # side of the picture, pixels
    fps: float
    cycle: int  # frames in a beat, a whole number, so that ED and ES lie exactly on frames
    systole: int  # frames from end diastole to end systole
    start: int  # frames since end diastole at the first frame
    tilt: float  # of the q axis against the depth axis
    origin: tuple[float, float]  # of the local axes
    depth: float  # of the sector
    breath: float  # phase of the slow probe motion
    tremor: float  # phase of the fast one

    @property
    def spacing(self) -> float:
        """Side of a pixel, cm."""
        return self.depth * 1.03 / self.size

    @property
    def heart_rate(self) -> float:
        return 60 * self.fps / self.cycle

    @property
    def ed_frame(self) -> int:
        return -self.start % self.cycle

    @property
    def es_frame(self) -> int:
        return (self.systole - self.start) % self.cycle

    def rng(self, purpose: int) -> np.random.Generator:
        patient = self.patient
        return _rng(
            patient.population, patient.seed, patient.index, 1 + VIEWS.index(self.view), purpose
        )

    def instant(self, frame: int) -> Instant:
        phase, systole = (frame + self.start) % self.cycle / self.cycle, self.systole / self.cycle
        ejected = emptying(phase, systole)
        volume = 1 - self.patient.ef * ejected
        share = LENGTH_SHARE[self.view]
        breath = 2 * math.pi * (0.25 * frame / self.fps + self.breath)
        tremor = 2 * math.pi * (1.3 * frame / self.fps + self.tremor)
        reach = 0.05 * self.patient.radius
        return Instant(
            ejected=ejected,
            width=volume ** ((1 - share) / 2),
            length=volume**share,
            mitral=mitral_opening(phase, systole),
            aortic=math.sin(math.pi * min(phase / systole, 1)),
            shift=(reach * math.sin(breath), reach * (math.cos(breath) + 0.2 * math.sin(tremor))),
            turn=0.012 * math.sin(tremor),
        )

    def contour(self, at: Instant) -> tuple[np.ndarray, np.ndarray]:
        """The LV's axis [2, 2], apex first, and its discs [DISCS, 2, 2], as (x, y) in pixels."""
        radius, u = at.width * self.patient.radius, disc_positions()
        top, bottom = 0.0, at.length * self.patient.length
        if self.view == "PSAX":
            top, bottom = -radius, radius
        half, q = radius * lv_profile(self.view, u), top + (bottom - top) * u
        discs = np.stack([np.stack([-half, q], -1), np.stack([half, q], -1)], 1)
        return self.to_pixels(np.array([[0, top], [0, bottom]]), at), self.to_pixels(discs, at)

    @property
    def tip(self) -> np.ndarray:
        """The sector's apex in the picture: (x, y) pixels."""
        return np.array([(self.size - 1) / 2, 0.015 * self.size])

    def to_pixels(self, local: np.ndarray, at: Instant) -> np.ndarray:
        return self.to_probe(local, at) / self.spacing + self.tip

    def to_probe(self, local: np.ndarray, at: Instant) -> np.ndarray:
        """Maps local (p, q) at an instant to probe (x, y), both [..., 2]; rigid, so areas stay."""
        p, q = local[..., 0] - at.shift[0], local[..., 1] - at.shift[1]
        c, s = math.cos(at.turn + self.tilt), math.sin(at.turn + self.tilt)
        return np.stack([self.origin[0] + c * p + s * q, self.origin[1] - s * p + c * q], -1)

    def to_local(self, x: np.ndarray, y: np.ndarray, at: Instant) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of to_probe."""
        c, s = math.cos(at.turn + self.tilt), math.sin(at.turn + self.tilt)
        x, y = x - self.origin[0], y - self.origin[1]
        return c * x - s * y + at.shift[0], s * x + c * y + at.shift[1]


def draw_scene(patient: Patient, view: str, *, size: int, fps: float) -> Scene:
    """Draws the position of the probe and the start of the video of `patient` in `view`."""
    rng = _rng(patient.population, patient.seed, patient.index, 1 + VIEWS.index(view), 0)
    radius, wall = patient.radius, patient.wall
    cycle = frames_in_beat(patient.heart_rate, fps)
    # About 0.33 s at 60 beats a minute; a larger share of the beat at faster rates.
    systole = round(fps * (0.16 + 0.17 * cycle / fps))
    start = int(rng.integers(cycle))
    tilt = rng.uniform(-0.13, 0.13)
    near, aside = rng.uniform(0.5, 1.0) * radius, rng.uniform(-0.2, 0.2) * radius
    margin = rng.uniform(0.98, 1.12)
    parasternal = near + 2 * radius + wall  # depth of the LV's axis under the right heart
    if view == "PSAX":
        origin = (aside + 0.25 * radius, parasternal)
        depth = parasternal + 2.1 * radius + wall
    elif view == "PLAX":  # the LV is horizontal, with its apex to the left
        tilt += 1.6
        origin = (aside + 0.7 * radius - patient.length, parasternal)
        depth = parasternal + 2.1 * radius + wall
    else:
        tilt += 0.0 if view == "A4C" else 0.04
        origin = (aside + (0.55 if view == "A4C" else 0.1) * radius, 0.4 * near + 1.1 * wall)
        depth = origin[1] + patient.length + 2 * patient.atrium + 0.3 * radius
    return Scene(
        patient=patient,
        view=view,
        size=size,
        fps=fps,
        cycle=cycle,
        systole=min(max(systole, 1), cycle // 2),
        start=start,
        tilt=tilt,
        origin=origin,
        depth=depth * margin,
        breath=rng.uniform(0, 1),
        tremor=rng.uniform(0, 1),
    )


def frames_in_beat(heart_rate: float, fps: float) -> int:
    """Whole frames in a beat at this heart rate; the number never grows with the rate."""
    return max(round(60 * fps / heart_rate), 4)


def chambers(scene: Scene) -> list[tuple[np.ndarray, float]]:
    """Outlines [n, 2] of the chambers in local axes at end diastole, with their wall thickness.

    The LV comes first.
    """
    patient, view = scene.patient, scene.view
    radius, wall, base, right = patient.radius, patient.wall, patient.length, patient.right_heart
    u = np.linspace(0, 1, 60)
    if view == "PSAX":
        turn = np.linspace(0.78, 1.72, 60) * math.pi
        ring = np.stack([np.cos(turn), np.sin(turn)], -1)
        inner = radius + wall
        outer = inner + right * np.sin(u * math.pi) ** 0.8
        crescent = np.concatenate([ring * inner, (ring * outer[:, None])[::-1]])
        return [(ellipse(0, 0, radius, radius), wall), (crescent, 0.35 * wall)]
    half = radius * lv_profile(view, u)
    left = (_between(-half, half, u * base), wall)
    roof = base + 0.12 * radius + patient.atrium
    if view == "A2C":
        return [left, (ellipse(0, roof, 0.95 * radius, patient.atrium), 0.3 * wall)]
    if view == "A4C":
        from_apex = 0.14 + 0.86 * u
        septum = -(radius * lv_profile(view, from_apex) + wall)
        free = septum - 1.15 * right * u**0.6 * (1 - 0.25 * from_apex**6)
        p, q = -0.95 * radius - 0.8 * right, roof - 0.1 * patient.atrium
        right_atrium = ellipse(p, q, 0.75 * right, 0.9 * patient.atrium)
        return [
            left,
            (_between(septum, free, from_apex * base), 0.4 * wall),
            (ellipse(0, roof, 0.85 * radius, patient.atrium), 0.3 * wall),
            (right_atrium, 0.3 * wall),
        ]
    along = 0.15 + 1.15 * u
    septum = radius * lv_profile(view, np.minimum(along, 0.9)) + wall
    free = septum + 0.85 * right * np.sin((0.1 + 0.8 * u) * math.pi) ** 0.5
    aorta = np.array([[0.1, 0], [0.05, 0.5], [0.1, 3], [0.8, 3], [0.88, 0.5], [0.74, 0]]) * radius
    return [
        left,
        (_between(septum, free, along * base), 0.35 * wall),
        (aorta + np.array([0, base]), 0.25 * wall),
        (ellipse(-0.62 * radius, roof, 0.62 * radius, patient.atrium), 0.3 * wall),
    ]


def ellipse(p: float, q: float, across: float, along: float) -> np.ndarray:
    turn = np.linspace(0, 2 * math.pi, 90, endpoint=False)
    return np.stack([p + across * np.cos(turn), q + along * np.sin(turn)], -1)


def _between(first: np.ndarray, second: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The outline of the area between the lines p = first(q) and p = second(q)."""
    return np.concatenate([np.stack([first, q], -1), np.stack([second, q], -1)[::-1]])


def valves(scene: Scene) -> list[tuple[float, float, bool]]:
    """Valves in the plane of the base: p of both hinges, and whether they open in systole."""
    radius, right = scene.patient.radius, scene.patient.right_heart
    mitral = (-0.66 * radius, 0.66 * radius, False)
    septum = -(0.74 * radius + scene.patient.wall)
    return {
        "A4C": [mitral, (septum - 0.8 * right, septum - 0.05 * right, False)],
        "A2C": [mitral],
        "PLAX": [(-0.68 * radius, 0.04 * radius, False), (0.12 * radius, 0.72 * radius, True)],
        "PSAX": [],
    }[scene.view]


def leaflets(scene: Scene, at: Instant) -> list[np.ndarray]:
    """Valve leaflets at an instant, as lines [3, 2] in local axes: hinge, belly, free edge."""
    lines = []
    base = at.length * scene.patient.length
    for first, second, systolic in valves(scene):
        # Mitral and tricuspid valve open towards the apex, the aortic valve away from it.
        opening = at.aortic if systolic else at.mitral
        reach = (second - first) / 2 * (1 if systolic else -1)
        middle = (first + second) / 2
        for hinge in (first, second):
            edge = middle + (hinge - middle) * (0.02 + 0.75 * opening)
            belly = ((hinge + edge) / 2, base + reach * (0.05 + 0.5 * opening))
            tip = (edge, base + reach * (0.25 + 0.75 * opening))
            lines.append(np.array([(hinge, base), belly, tip]))
    return lines
