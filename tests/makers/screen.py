"""The screen of an ultrasound machine around a beating heart."""

import cv2
import numpy as np

BANNER = "DOE JANE 1957-03-02"


def screen(heart: np.ndarray, text: str = BANNER) -> np.ndarray:
    """The phantom on a machine's screen: 400 x 500 px, with a banner, a scale and an ECG."""
    frames = np.zeros((len(heart), 400, 500), np.uint8)
    x = np.arange(40, 460)
    for k, frame in enumerate(heart):
        frames[k, 60:330, 115:385] = cv2.resize(frame, (270, 270))
        cv2.putText(frames[k], text, (60, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 220, 1, cv2.LINE_AA)
        cv2.putText(frames[k], "12 cm", (420, 320), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 200, 1)
        y = 370 + 15 * np.sin((x[: 7 * k + 2]) / 9.0)
        trace = np.stack([x[: 7 * k + 2], y], axis=1).astype(np.int32)
        cv2.polylines(frames[k], [trace], False, 255, 1)
    return frames


def patient_page() -> np.ndarray:
    """A page of a patient's data."""
    picture = np.zeros((400, 500), np.uint8)
    for line in range(10):
        at = (30, 40 + 36 * line)
        cv2.putText(picture, BANNER, at, cv2.FONT_HERSHEY_SIMPLEX, 0.9, 220, 2, cv2.LINE_AA)
    return picture
