"""The page in a real browser: drawn, quiet on the console, light and dark, narrow and wide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from lorapack.cli.main import run

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)


@pytest.fixture(scope="module")
def chromium() -> str:
    if CHROMIUM is None:
        pytest.skip("CHROMIUM ABSENT: the report was not opened in a browser")
    return CHROMIUM


def method(name, slots, n_gpus, verified=True):
    return {"method": name, "slots": slots, "n_gpus": n_gpus, "verified": verified}


METHODS = [
    method("greedy", "own", 1),
    method("random", "own", 3),
    method("random", "ours", 2),
    method("max-backbone", "own", 1, verified=False),
    method("impossible", "own", None, verified=False),
]

CURVE = [
    {"adapters": 90, "max_loras": n, "starts": n < 512, "holds": n == 32, "throughput_tps": t}
    for n, t in [(8, 900.0), (32, 1900.0), (128, 1700.0), (512, 0.0)]
]


@pytest.fixture(scope="module", params=["simulated", "predicted"])
def page(request, tmp_path_factory):
    """A report of a packed fleet with its timeline, beside it what other commands would give."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "compare.json").write_text(json.dumps({"methods": METHODS}))
    maxpack = {"maxpack": 90, "max_loras": 32, "rate_rps": 0.1, "rank": 8, "curve": CURVE}
    (folder / "maxpack.json").write_text(json.dumps(maxpack))
    fleet = folder / "fleet.csv"
    rows = [f"tenant-{number},{(8, 16, 32)[number % 3]},0.05" for number in range(12)]
    fleet.write_text("\n".join(["adapter,rank,rate_rps", *rows]) + "\n")
    plan, html = folder / "plan.json", folder / "report.html"
    proof = [] if request.param == "simulated" else ["--no-verify"]
    assert run(["pack", str(fleet), "-o", str(plan), "--quiet", *proof]) == 0
    arguments = ["report", str(folder), "-o", str(html), "--timeline", "60", "--quiet"]
    assert run(arguments) == 0
    return html


def browse(chromium, page, *options):
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--virtual-time-budget=8000",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, said


def test_every_figure_is_drawn_and_the_console_is_quiet(chromium, page):
    dom, said = browse(chromium, page, "--dump-dom")
    assert said == []
    wanted = len(re.findall(r'data-figure="', dom))
    assert re.search(r'<html[^>]* data-drawn="(\d+)"', dom)[1] == str(wanted)
    assert len(re.findall(r"<svg[^>]*class=\"marks\"", dom)) == wanted >= 6


def test_the_console_would_be_heard(chromium, page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("vegaEmbed(plot", "noSuchFunction(plot"))
    assert browse(chromium, broken, "--dump-dom")[1]


def test_light_and_dark_narrow_and_wide_are_pictures_of_their_own(chromium, page, tmp_path):
    from matplotlib.image import imread

    brightness = {}
    for theme, scheme in (("dark", 0), ("light", 1)):
        for width in (400, 1280):
            shot = tmp_path / f"{theme}-{width}.png"
            browse(
                chromium,
                page,
                f"--screenshot={shot}",
                f"--window-size={width},1600",
                f"--blink-settings=preferredColorScheme={scheme}",
            )
            picture = imread(shot)[..., :3]
            assert picture.shape[1] == width
            assert picture.std() > 0.02, "an empty page"
            brightness[theme, width] = float(picture.mean())
    assert all(brightness["dark", width] < 0.3 for width in (400, 1280))
    assert all(brightness["light", width] > 0.7 for width in (400, 1280))


def test_nothing_is_wider_than_a_phone(chromium, page, tmp_path):
    """In a frame: a headless window is never narrower than 500 pixels."""
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"<iframe id=frame width=360 height=800 style='border:0' src='{page.as_uri()}'></iframe>"
        "<script>addEventListener('load', () => setTimeout(() => {"
        "const root = document.getElementById('frame').contentDocument.documentElement;"
        "Object.assign(document.documentElement.dataset,"
        "{width: root.scrollWidth, drawn: root.dataset.drawn});"
        "}, 3000));</script>"
    )
    dom, _ = browse(chromium, probe, "--dump-dom", "--allow-file-access-from-files")
    found = re.search(r'<html data-width="(\d+)" data-drawn="(\d+)"', dom)
    assert int(found[1]) == 360
    assert int(found[2]) >= 3
