"""The phantom's motion: which material of the heart lies at a place now.

The LV's border follows its contour exactly (data/phantom_heart.py); the wall thickens, the base is
drawn towards the apex, and the right ventricle contracts on its own.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from echojepa_jax.phantom.heart import REST, Instant, Scene, lv_profile, smoothstep


@dataclasses.dataclass(frozen=True)
class Motion:
    """Maps the heart of any instant back to end diastole, at fixed probe positions x, y [...]."""

    scene: Scene
    x: np.ndarray
    y: np.ndarray

    def material(self, at: Instant) -> tuple[np.ndarray, np.ndarray]:
        """Local coordinates (p, q) at end diastole of the material that lies at x, y now."""
        who = self.scene.patient
        p, q = self.scene.to_local(self.x, self.y, at)
        pull, own_p, own_q = self._still
        fade = 0.8 * who.radius
        if self.scene.view == "PSAX":
            r = np.hypot(p, q) + np.float32(1e-6)
            scale = squeeze(r, np.full_like(r, who.radius), at.width, fade) / r
            return p * scale + at.ejected * own_p, q * scale + at.ejected * own_q
        # The base comes down to the apex, which stays; so does the atrium's roof: it is stretched.
        base, roof = at.length * who.length, who.length + 2 * who.atrium
        drop = np.clip(np.minimum(q / base, (roof - q) / (roof - base)), 0, None)
        q = q + drop * (who.length - base) * pull
        p = np.copysign(squeeze(np.abs(p), self._half_width_at(q), at.width, fade), p)
        return p + at.ejected * own_p, q + at.ejected * own_q

    def _half_width_at(self, q: np.ndarray) -> np.ndarray:
        rows = np.clip(q * np.float32(1000 / self.scene.patient.length), 0, 2000)
        return self._half_widths[rows.astype(np.int32)]

    @cached_property
    def _half_widths(self) -> np.ndarray:
        """LV half-width at every thousandth of its axis, to two lengths; fades below the base."""
        u = np.arange(2001) / 1000
        profile = lv_profile("A4C", np.minimum(u, 1)) * np.exp(-((np.maximum(u - 1, 0) / 0.2) ** 2))
        return (self.scene.patient.radius * profile).astype(np.float32)

    @cached_property
    def _still(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What does not change: the reach of the base's pull; the right ventricle's own motion."""
        who = self.scene.patient
        p, q = self.scene.to_local(self.x, self.y, REST)
        aside = 0.9 * who.radius + who.wall + 0.4 * who.right_heart
        if self.scene.view == "PSAX":
            beyond = np.hypot(p, q) - who.radius
            centre = (-1.1 * (who.radius + who.wall), -1.1 * (who.radius + who.wall))
        else:
            beyond = np.abs(p) - self._half_width_at(q)
            centre = (aside if self.scene.view == "PLAX" else -aside, 0.75 * who.length)
        pull = 1 - smoothstep((beyond - 2.2 * who.radius) / (1.5 * who.radius))
        squared = (p - centre[0]) ** 2 + (q - centre[1]) ** 2
        # Zero inside the LV: its contour moves by its own law only.
        own = smoothstep(beyond / who.wall) * np.exp(-squared / (2 * (0.8 * who.radius) ** 2))
        own = own * (0.0 if self.scene.view == "A2C" else who.right_squeeze)
        p_part, q_part = own * (p - centre[0]), own * (q - centre[1])
        return pull.astype(np.float32), p_part.astype(np.float32), q_part.astype(np.float32)


def squeeze(a: np.ndarray, half: np.ndarray, width: float, fade: float) -> np.ndarray:
    """Distance from the LV's axis at end diastole of what lies at distance `a` now.

    The border `width * half` maps to `half`. Inside, blood moves linearly; outside, the wall
    thickens and the motion fades over the distance `fade`.
    """
    outside = a + half * (1 - width) * np.exp(np.minimum(half * width - a, 0) / fade)
    return np.minimum(a / width, outside)
