"""Quaternions, scalar first as numpy-quaternion's."""

import numpy as np


class Quaternion:
    def __init__(self, w, x, y, z):
        self.w, self.x, self.y, self.z = (float(v) for v in np.float32([w, x, y, z]))

    def __mul__(self, o):
        return Quaternion(
            self.w * o.w - self.x * o.x - self.y * o.y - self.z * o.z,
            self.w * o.x + self.x * o.w + self.y * o.z - self.z * o.y,
            self.w * o.y - self.x * o.z + self.y * o.w + self.z * o.x,
            self.w * o.z + self.x * o.y - self.y * o.x + self.z * o.w,
        )

    def matrix(self):
        w, x, y, z = np.array([self.w, self.x, self.y, self.z]) / np.sqrt(
            self.w**2 + self.x**2 + self.y**2 + self.z**2
        )
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )


def quat_from_coeffs(coeffs):
    """Scalar last, as the real one."""
    return Quaternion(coeffs[3], *coeffs[:3])
