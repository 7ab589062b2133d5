"""Pixels from 3D Gaussians: one function, `rasterize`, and three backends that agree.

Conventions, stated here once and used everywhere in this repository:

- Cameras look along +z (OpenCV axes: x right, y down, z forward). `world_to_cam` [4, 4] maps world to camera
  coordinates, `K` [3, 3] is the pinhole matrix in pixels, and the centre of the pixel in row i, column j is
  (j + 0.5, i + 0.5).
  Files with other axes and with lens distortion are converted on the way in.
- Axis letters: N Gaussians, C cameras, T frames, H W pixels, S spherical-harmonics coefficients, J handles,
  M handle slots per Gaussian, F feature channels. `K` is always intrinsics.
- Quaternions are wxyz. Lengths are in scene units. Time is in seconds.
- Images are float32 [T, H, W, 3] in [0, 1], sRGB as captured; masks bool [T, H, W], True = edit here / belongs to;
  depth is z in the camera, never ray length, and 0 means none.
- Raw parameters carry their space in the name: `log_scales`, `logit_opacities`.
- Transforms chain by name: `T_world_obj @ T_obj_part`.

`renderers` never knows about time, files, captures or editing.
"""

from renderers.data import Cameras, Gaussians, RasterOptions, Rendering, Screen
from renderers.rasterization import BACKENDS, rasterize

__all__ = ["BACKENDS", "Cameras", "Gaussians", "RasterOptions", "Rendering", "Screen", "rasterize"]
