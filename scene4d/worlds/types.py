"""What a world is made of, and what is known of it. Data only.

World axes are z up, lengths metres. An object lives in its rest frame; its pose at time t is

    T_world_rest(t) = placement @ T_world_parent(t') @ T_parent_obj(t') @ deformation(t'),      t' = warp(t)

where T_world_parent is the identity for an object without a parent, and the placement is the identity unless an edit
moved the instance whose root the object is. The deformation is linear (stretch and lean), so a straight ray stays
straight in the rest frame and every intersection is closed form.

O objects, C cameras, T times, N points, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Vec3 = tuple[float, float, float]
Matrix4 = tuple[tuple[float, float, float, float], ...]
IDENTITY: Matrix4 = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Drive:
    """A number over time: offset + rate t + amplitude sin(2 pi (hz t + phase))."""

    offset: float = 0.0
    rate: float = 0.0  # per second
    amplitude: float = 0.0
    hz: float = 0.5
    phase: float = 0.0  # turns


@dataclass(frozen=True)
class Motion:
    """Rigid pose and linear deformation over time, relative to the parent."""

    x: Drive = Drive()
    y: Drive = Drive()
    z: Drive = Drive()
    axis: Vec3 = (0.0, 0.0, 1.0)  # of the turn by `angle`, in the parent's frame, any length
    angle: Drive = Drive()  # radians
    rest_quat: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # wxyz, applied before the turn
    offset: Vec3 = (0.0, 0.0, 0.0)  # of the rest frame along its own axes: a limb turns about its joint, not its middle
    stretch: Drive = Drive(1.0)  # of the local z axis; x and y shrink so that the volume stays
    lean: Drive = Drive()  # local x += lean * local z


@dataclass(frozen=True)
class TimeWarp:
    """Piecewise linear from scene time to object time; outside the knots the end slopes go on."""

    times: tuple[float, ...] = (0.0, 1.0)
    values: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if len(self.times) != len(self.values) or len(self.times) < 2:
            raise ValueError(f"values must have as many knots as times, at least 2, got {self.times} and {self.values}")
        if any(a >= b for a, b in zip(self.times, self.times[1:], strict=False)):
            raise ValueError(f"times must increase, got {self.times}")


@dataclass(frozen=True)
class Texture:
    """A smooth colour for every point of the rest frame: soft checks between two colours plus band-limited noise."""

    color: Vec3 = (0.55, 0.5, 0.45)
    color2: Vec3 = (0.35, 0.4, 0.5)
    checks: Vec3 = (0.0, 0.0, 0.0)  # period along each axis in metres; 0 = constant along it, all 0 = no checks
    softness: float = 0.5  # width of the transition between two checks, in half periods
    noise: float = 0.12  # standard deviation of each channel
    wavelength: float = 0.3  # metres; the noise has none below it, and none above three times it
    seed: int = 0


@dataclass(frozen=True)
class Sphere:
    """An ellipsoid."""

    radii: Vec3


@dataclass(frozen=True)
class Box:
    half: Vec3


@dataclass(frozen=True)
class Rect:
    """A flat rectangle in z = 0, seen only from its +z side: from outside one looks into a room."""

    half: tuple[float, float]


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the segment from (0, 0, -half_length) to (0, 0, half_length)."""

    radius: float
    half_length: float


Shape = Sphere | Box | Rect | Capsule


@dataclass(frozen=True)
class WorldObject:
    """One primitive. A thing of several primitives (an arm, a walker) is several objects of one instance."""

    name: str  # unique in the world
    instance: int  # 0 = background; 1 and up = things that can be edited
    shape: Shape
    texture: Texture = Texture()
    motion: Motion = Motion()
    parent: str | None = None  # name of an object that stands earlier in the world
    warps: tuple[TimeWarp, ...] = ()  # applied in this order, to the object's own motion
    placement: Matrix4 = IDENTITY  # similarity in the world; set by edits, on the root of an instance
    origin: str = ""  # name of the object whose surface this one copies; "" = its own name


@dataclass(frozen=True)
class Light:
    """Lambert's law with a fixed direction: colour * (ambient + (1 - ambient) max(0, n . direction))."""

    direction: Vec3 = (0.4, -0.5, 0.8)  # towards the light, any length
    ambient: float = 0.6


@dataclass(frozen=True)
class Stage:
    """Where cameras look from: an arc of `degrees` to both sides of `azimuth` around `target`."""

    target: Vec3
    distance: float
    degrees: float = 20.0
    elevation: float = 10.0  # degrees above the horizon
    azimuth: float = 270.0  # degrees in the x-y plane; 270 looks along +y
    focal: float = 150.0 / 160.0  # in image widths


@dataclass(frozen=True)
class World:
    """Objects over time. Without a light, colours are the textures' own and do not change as things move."""

    name: str
    objects: tuple[WorldObject, ...]
    stage: Stage
    duration: float = 1.0  # seconds in which the motion was designed to be seen; it goes on beyond
    background: Vec3 = (0.5, 0.5, 0.5)  # where no object is
    light: Light | None = None

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for obj in self.objects:
            if obj.name in seen:
                raise ValueError(f"names of objects must be unique, got {obj.name!r} twice")
            if obj.parent is not None and obj.parent not in seen:
                raise ValueError(f"parent of {obj.name!r} must be an earlier object, got {obj.parent!r}")
            seen.add(obj.name)

    @property
    def instances(self) -> list[int]:
        """Ids of the things that can be edited, ascending."""
        return sorted({o.instance for o in self.objects} - {0})


@dataclass(frozen=True)
class Poses:
    """Where every object is at one time. T_world_rest = T_world_obj @ deformation."""

    T_world_obj: Tensor  # [O, 4, 4] float64 rigid (a similarity where an edit scaled the object)
    deformation: Tensor  # [O, 3, 3] float64
    T_world_rest: Tensor  # [O, 4, 4] float64


@dataclass(frozen=True)
class Truth:
    """What cameras see at one time. All but the images are sampled at pixel centres."""

    images: Tensor  # [C, H, W, 3] float32 in [0, 1]
    depth: Tensor  # [C, H, W] float32 z in the camera, 0 = nothing there
    ids: Tensor  # [C, H, W] int32 instance, 0 = background or nothing
    parts: Tensor  # [C, H, W] int32 index into world.objects, -1 = nothing
    rest_points: Tensor  # [C, H, W, 3] float32 the surface point in its object's rest frame
    normals: Tensor  # [C, H, W, 3] float32 world, unit length, 0 where nothing is


@dataclass(frozen=True)
class Flow:
    """Where the surface seen at each pixel of cameras a is in cameras b."""

    flow: Tensor  # [C, H, W, 2] float32 pixels, 0 where not defined
    defined: Tensor  # [C, H, W] bool: there is a surface, b has it too, and it is in front of camera b
    in_frame: Tensor  # [C, H, W] bool: defined, and it projects into the image of b
    visible: Tensor  # [C, H, W] bool: in frame, and nothing in b is in front of it

    @property
    def occluded(self) -> Tensor:
        """bool [C, H, W]: projects into the image of b, behind something."""
        return self.in_frame & ~self.visible


@dataclass(frozen=True)
class SurfacePoints:
    """Points that stay on their object."""

    parts: Tensor  # [N] int64 index into world.objects
    rest: Tensor  # [N, 3] float64 in the rest frame


@dataclass(frozen=True)
class Tracks:
    """Surface points over time."""

    xyz: Tensor  # [T, N, 3] float64 world
    pixels: Tensor  # [T, C, N, 2] float64, NaN behind the camera
    depth: Tensor  # [T, C, N] float64 z in the camera
    visible: Tensor  # [T, C, N] bool: in the image and not hidden
