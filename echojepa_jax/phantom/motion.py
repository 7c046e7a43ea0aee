"""The phantom's motion: finds the material of the heart that lies at a position at an instant.

The LV's border follows its contour exactly (heart.py). The wall thickens, the base moves towards
the apex, and the right ventricle contracts independently.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from echojepa_jax.phantom.heart import REST, Instant, Scene, lv_profile, smoothstep


@dataclasses.dataclass(frozen=True)
class Motion:
    """Maps fixed probe positions x, y [...] at any instant back to the heart at end diastole."""

    scene: Scene
    x: np.ndarray
    y: np.ndarray

    def material(self, at: Instant) -> tuple[np.ndarray, np.ndarray]:
        """Local (p, q) at end diastole of the material that lies at x, y at the instant `at`."""
        patient = self.scene.patient
        p, q = self.scene.to_local(self.x, self.y, at)
        pull, own_p, own_q = self._constants
        fade = 0.8 * patient.radius
        if self.scene.view == "PSAX":
            r = np.hypot(p, q) + np.float32(1e-6)
            scale = squeeze(r, np.full_like(r, patient.radius), at.width, fade) / r
            return p * scale + at.ejected * own_p, q * scale + at.ejected * own_q
        # The base moves towards the apex. The apex and the roof of the atrium stay in place, so the
        # atrium is stretched.
        base, roof = at.length * patient.length, patient.length + 2 * patient.atrium
        drop = np.clip(np.minimum(q / base, (roof - q) / (roof - base)), 0, None)
        q = q + drop * (patient.length - base) * pull
        p = np.copysign(squeeze(np.abs(p), self._half_width_at(q), at.width, fade), p)
        return p + at.ejected * own_p, q + at.ejected * own_q

    def _half_width_at(self, q: np.ndarray) -> np.ndarray:
        rows = np.clip(q * np.float32(1000 / self.scene.patient.length), 0, 2000)
        return self._half_widths[rows.astype(np.int32)]

    @cached_property
    def _half_widths(self) -> np.ndarray:
        """LV half-width at thousandths of its length, for two lengths; it fades below the base."""
        u = np.arange(2001) / 1000
        profile = lv_profile("A4C", np.minimum(u, 1)) * np.exp(-((np.maximum(u - 1, 0) / 0.2) ** 2))
        return (self.scene.patient.radius * profile).astype(np.float32)

    @cached_property
    def _constants(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Constant terms: the strength of the base's pull, and the right ventricle's motion."""
        patient = self.scene.patient
        p, q = self.scene.to_local(self.x, self.y, REST)
        aside = 0.9 * patient.radius + patient.wall + 0.4 * patient.right_heart
        if self.scene.view == "PSAX":
            beyond = np.hypot(p, q) - patient.radius
            centre = (
                -1.1 * (patient.radius + patient.wall),
                -1.1 * (patient.radius + patient.wall),
            )
        else:
            beyond = np.abs(p) - self._half_width_at(q)
            centre = (aside if self.scene.view == "PLAX" else -aside, 0.75 * patient.length)
        pull = 1 - smoothstep((beyond - 2.2 * patient.radius) / (1.5 * patient.radius))
        squared = (p - centre[0]) ** 2 + (q - centre[1]) ** 2
        # Zero inside the LV, whose contour follows only its own motion.
        own = smoothstep(beyond / patient.wall) * np.exp(
            -squared / (2 * (0.8 * patient.radius) ** 2)
        )
        own = own * (0.0 if self.scene.view == "A2C" else patient.right_squeeze)
        p_part, q_part = own * (p - centre[0]), own * (q - centre[1])
        return pull.astype(np.float32), p_part.astype(np.float32), q_part.astype(np.float32)


def squeeze(a: np.ndarray, half: np.ndarray, width: float, fade: float) -> np.ndarray:
    """Maps a distance `a` from the LV's axis at an instant to the distance at end diastole.

    The border `width * half` maps to `half`. Inside, blood moves linearly. Outside, the wall
    thickens, and the motion fades over the distance `fade`.
    """
    outside = a + half * (1 - width) * np.exp(np.minimum(half * width - a, 0) / fade)
    return np.minimum(a / width, outside)
