"""Points in space as sensor_msgs/PointCloud2, as the executor and the page exchange them."""

from __future__ import annotations

import array

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from vln_ros.datatypes import Float64Array
from vln_ros.ros.convert import MessageError, time_from_stamp_ns

_FIELDS = ("x", "y", "z")
_BYTES = 4


def cloud_from_points(points: Float64Array, stamp_ns: int, frame_id: str) -> PointCloud2:
    """``[N, 3]`` in metres as float32 x, y, z."""
    data = np.ascontiguousarray(points, "<f4")
    return PointCloud2(
        header=Header(stamp=time_from_stamp_ns(stamp_ns), frame_id=frame_id),
        height=1,
        width=len(data),
        fields=[
            PointField(name=name, offset=i * _BYTES, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate(_FIELDS)
        ],
        point_step=len(_FIELDS) * _BYTES,
        row_step=len(data) * len(_FIELDS) * _BYTES,
        data=array.array("B", data.tobytes()),
        is_dense=True,
    )


def points_from_cloud(msg: PointCloud2) -> Float64Array:
    """``[N, 3]`` in metres; points that are none (NaN, infinite) are left out.

    Errors: ``bad_cloud``: no float32 x, y and z, big-endian, or less data than it says.
    """
    offsets = {f.name: f.offset for f in msg.fields if f.datatype == PointField.FLOAT32}
    if any(name not in offsets for name in _FIELDS) or msg.is_bigendian:
        raise MessageError("bad_cloud", "a point cloud needs little-endian float32 x, y and z")
    count, step = msg.width * msg.height, msg.point_step
    if step < max(offsets[name] for name in _FIELDS) + _BYTES or len(msg.data) < count * step:
        raise MessageError("bad_cloud", f"{len(msg.data)} bytes are not {count} points of {step}")
    rows = np.frombuffer(msg.data, np.uint8, count * step).reshape(count, step)
    columns = [
        np.ascontiguousarray(rows[:, offsets[name] : offsets[name] + _BYTES]).view("<f4")[:, 0]
        for name in _FIELDS
    ]
    points = np.stack(columns, 1).astype(np.float64)
    return np.asarray(points[np.isfinite(points).all(1)])
