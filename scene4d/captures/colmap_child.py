"""Structure from motion in a process of its own: OpenCV 5 and pycolmap crash when both are loaded.

Run by path, never imported: `python -P colmap_child.py job.json`. Reads the job, writes a COLMAP text model to
`out`, prints one JSON line with counts, or {"error": ...}. Imports nothing of this project and no OpenCV.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def run(job: dict) -> dict:
    """The counts of the largest model found.

    Job keys: database, images, masks (or null), names, out, shared_camera, sequential, threads, features, seed.
    """
    import pycolmap

    pycolmap.set_random_seed(job["seed"])
    pycolmap.logging.minloglevel = 2
    mode = pycolmap.CameraMode.SINGLE if job["shared_camera"] else pycolmap.CameraMode.PER_FOLDER
    reader, extraction = pycolmap.ImageReaderOptions(), pycolmap.FeatureExtractionOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    if job["masks"]:
        reader.mask_path = job["masks"]
    extraction.num_threads = job["threads"]
    extraction.sift.max_num_features = job["features"]
    pycolmap.extract_features(
        job["database"],
        job["images"],
        image_names=job["names"],
        camera_mode=mode,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = job["threads"]
    match = pycolmap.match_sequential if job["sequential"] else pycolmap.match_exhaustive
    match(job["database"], matching_options=matching, device=pycolmap.Device.cpu)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = job["seed"]
    options.min_model_size = min(10, len(job["names"]))
    # video frames lie close together: COLMAP's 16 degrees for the first pair would refuse most hand-held clips
    for angle in (16.0, 6.0, 2.0):
        options.mapper.init_min_tri_angle = angle
        models = pycolmap.incremental_mapping(job["database"], job["images"], job["out"], options=options)
        best = max(models.values(), key=lambda m: m.num_reg_images(), default=None)
        if best is not None and best.num_reg_images() >= 0.9 * len(job["names"]):
            break
    if best is None:
        return {"error": "no two frames share enough points that do not move"}
    model = Path(job["out"]) / "best"
    model.mkdir()
    best.write_text(str(model))
    return {
        "model": str(model),
        "registered": best.num_reg_images(),
        "points": best.num_points3D(),
        "error_pixels": best.compute_mean_reprojection_error(),
        "version": pycolmap.__version__,
    }


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        result = run(job)
    except Exception as e:  # whatever it is, the parent tells it in one line
        result = {"error": f"{type(e).__name__}: {e}"}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
