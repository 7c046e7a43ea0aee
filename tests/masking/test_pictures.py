"""Pictures of masks: every token has the tint of what becomes of it."""

import numpy as np

from echojepa_jax.masking import pictures
from echojepa_jax.masking.pictures import HIDDEN, TARGET, VISIBLE


def tinted(tint, level):
    return [round((1 - tint.opacity) * level + tint.opacity * colour) for colour in tint.colour]


def test_tokens_are_painted_where_they_are():
    clip = np.full((4, 32, 48, 3), 200, np.uint8)
    # Two tubelets of two frames, tokens of 16 x 16 pixels; the block is the lower right corner.
    blocks = np.zeros((2, 2, 3), bool)
    blocks[:, 1, 2] = True
    painted = pictures.paint(clip, blocks, np.array([0]), np.array([(1 * 2 + 1) * 3 + 2]))
    tokens = painted.reshape(2, 2, 2, 16, 3, 16, 3)[:, 0, :, 8, :, 8]  # [tubelet, row, column]
    expected = np.tile(tinted(VISIBLE, 200), (2, 2, 3, 1))
    expected[0, 0, 0] = 200  # seen by the encoder
    expected[0, 1, 2] = tinted(HIDDEN, 200)
    expected[1, 1, 2] = tinted(TARGET, 200)
    np.testing.assert_array_equal(tokens, expected)
    assert (painted == painted[:, ::16, ::16].repeat(16, 1).repeat(16, 2)).all()


def test_strip_shows_the_first_frame_of_every_tubelet_in_order():
    clip = np.zeros((8, 32, 32, 3), np.uint8)
    clip[:, :, :, 0] = (np.arange(8) * 30)[:, None, None]
    strip = pictures.strip(clip, token_frames=4)
    assert strip.shape == (32, 4 * 32 + 3 * pictures.GAP, 3)
    centres = strip[16, 16 + (32 + pictures.GAP) * np.arange(4)]
    np.testing.assert_array_equal(centres, [[60 * i, 0, 0] for i in range(4)])
