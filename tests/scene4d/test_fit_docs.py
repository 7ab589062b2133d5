"""docs/fitting.md says what the code does: presets, losses with their weights, and figures in the text."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from scene4d.captures import open_capture
from scene4d.fitting import backgrounds, densify, rigging, start, tracking, train
from scene4d.fitting.fit import choose_footage
from scene4d.fitting.model import make_model
from scene4d.fitting.settings import PRESETS, FitSettings, with_changes
from scene4d.fitting.start import start_scene
from scene4d.fitting.train import Fit
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world

PAGE = (Path(__file__).parents[2] / "docs" / "fitting.md").read_text()
TEXT = " ".join(PAGE.split())  # where lines break does not matter
COLUMNS = ("long_side", "steps", "max_gaussians", "handles", "knot_frames", "sh_degree")  # of the table of presets
DEFAULTS = FitSettings()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below the table's heading row, which begins with `heading`."""
    lines = PAGE[PAGE.index(f"\n| {heading} |") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_presets_in_the_table_are_those_of_the_code() -> None:
    rows = {row[0].strip("`"): [int(re.sub(r"[^\d]", "", cell)) for cell in row[1:]] for row in table("preset")}
    assert rows == {name: [getattr(preset, column) for column in COLUMNS] for name, preset in PRESETS.items()}


def test_presets_differ_only_in_what_the_table_shows() -> None:
    rest = [{k: v for k, v in asdict(preset).items() if k not in COLUMNS} for preset in PRESETS.values()]
    assert all(settings == rest[0] for settings in rest)


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """One that has masks, depth and a rig, before its first step."""
    folder, world = tmp_path_factory.mktemp("captures") / "ball", make_world("plane_sphere")
    capture_world(world, arc_rig(world, 64, 48), folder, CaptureOptions(frames=4, samples=1, points=300, tracks=10))
    settings = with_changes(PRESETS["draft"], steps=10, max_gaussians=200, handles=5, threads=1)
    footage = choose_footage(open_capture(folder), settings, None, None)
    first = start_scene(footage, settings, (0.0, 1.0), 1 / 3)
    model = make_model(first.scene, len(footage.capture.camera_names), first.size, settings, footage.device)
    return Fit(footage, settings, model, first.graph, origin=first.origin)


def test_masks_that_were_found_fall_to_a_tenth_of_their_weight_and_given_ones_keep_it(fit: Fit) -> None:
    assert "for masks that were found it falls to a tenth" in TEXT
    found, given = fit.footage.views[:2]
    later = replace(fit, step=fit.settings.steps)
    later.footage = replace(fit.footage, motion_masks={found.key: torch.ones(48, 64, dtype=torch.bool)})
    assert later.mask_weight(found) == pytest.approx(0.1 * DEFAULTS.weight_mask)
    assert later.mask_weight(given) == DEFAULTS.weight_mask


def test_losses_in_the_table_are_those_of_a_step(fit: Fit) -> None:
    told = fit.advance() | {"windows": 0.0}  # only with windows
    assert {row[0].strip("`") for row in table("name")} == told.keys() - {"psnr", "gaussians"}


@pytest.mark.parametrize("row", table("name"), ids=lambda row: row[0].strip("`"))
def test_weight_in_the_table_is_that_of_the_code(row: list[str]) -> None:
    name, weight, meaning = row[0].strip("`"), float(row[1]), row[2]
    if name == "rgb":
        shares = re.match(r"([\d.]+) L1 \+ ([\d.]+) \(1 - SSIM\)", meaning)
        assert shares is not None
        assert [weight, *map(float, shares.groups())] == [1, 1 - DEFAULTS.weight_ssim, DEFAULTS.weight_ssim]
    elif name == "exposure":
        assert weight == train.EXPOSURE_PRIOR
    else:
        assert weight == getattr(DEFAULTS, f"weight_{name}")


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def coarse_to_fine() -> str:
    """Where one of the two smaller sizes takes no steps, the page does not speak of it."""
    shares = {"a quarter": DEFAULTS.quarter, "half": DEFAULTS.half}
    (size, share), *more = [(size, share) for size, share in shares.items() if share]
    first = f"Pictures have {size} of their size in the first {percent(share)} of the steps"
    return first + "".join(f" and {size} of it in the next {percent(share)}" for size, share in more) + ", but"


FIGURES = (
    f"the quietest {backgrounds.WINDOW} frames",
    f"Where {backgrounds.AGREEING} cameras or more see a frame",
    f"Up to {start.MOST_TRACKS:,} of the moving points",
    f"fits its {tracking.NEIGHBOURS} neighbours best",
    f"by {percent(start.STILL)} of the scene's size",
    f"knots are {DEFAULTS.knot_frames:g} frames apart",
    f"follows up to {DEFAULTS.slots} handles",
    f"in the first {percent(DEFAULTS.march)} of the steps takes in one knot",
    coarse_to_fine(),
    "While frames join, pictures have a quarter of their size",
    f"no side below {train.SMALLEST_SIDE} pixels",
    f"fall to {percent(DEFAULTS.lr_last)},",
    f"Every {train.REFINE_EVERY} steps, from {percent(train.REFINE_FROM)} to {percent(train.REFINE_TO)} of them,",
    f"an opacity of {densify.DEAD:g} or less",
    f"up to {percent(densify.GROWTH - 1)} new ones",
    f"Of those drawn {percent(densify.MOVING_SHARE)} are of things that move",
    f"(every {DEFAULTS.checkpoint_steps} steps, `--checkpoint-steps`)",
)


@pytest.mark.parametrize("figure", FIGURES)
def test_figure_in_the_text_is_that_of_the_code(figure: str) -> None:
    assert figure in TEXT


def test_counts_told_in_words_are_those_of_the_code() -> None:
    assert "Half of the steps look at the newest frames" in TEXT and train.NEWEST == 0.5
    assert "each gets four at least" in TEXT and rigging.LEAST_HANDLES == 4
    assert "measured in every fourth step" in TEXT and train.FULL_EVERY == 4
    assert "three steps out of four look only at what moves" in TEXT
    assert "in every eighth step" in TEXT and train.SKINNING_EVERY == 8
