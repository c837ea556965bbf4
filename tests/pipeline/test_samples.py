"""The samples, and what the documents tell people to do with them."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from cyclades.pipeline import samples
from cyclades.pipeline.config import check_file
from cyclades.stages.core.errors import ConfigurationError, InputError

ROOT = Path(__file__).resolve().parents[2]


def blocks(document, language):
    """The code blocks of a Markdown file."""
    text = (ROOT / document).read_text("utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for marked, code in found if marked == language]


def shell(command, folder, **environment):
    """Run a line of shell with this interpreter's programs first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_simulated_truth_describes_the_image(tmp_path):
    """Peaks at the true places: within four times the noise, which is known, for lone sources."""
    image, truth = samples.write_sample("simulated", tmp_path)
    data = fits.getdata(image)
    rows = list(csv.DictReader(truth.open()))
    assert len(rows) == samples.SOURCES
    values = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert values["snr"].min() >= 3
    assert values["snr"].max() > 100
    x, y = values["x"], values["y"]
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
    alone = distance.min(0) > 25
    there = data[np.round(y).astype(int), np.round(x).astype(int)]
    # a background of up to two rms, and up to half a pixel off the peak of a beam 4 pixels wide
    low = 0.9 * values["peak_flux"] - 6 * values["local_rms"]
    high = values["peak_flux"] + 6 * values["local_rms"]
    assert alone.sum() > 20
    assert ((there > low) & (there < high))[alone].all()
    assert (values["total_flux"] >= 0.999 * values["peak_flux"]).all()


def test_simulated_is_the_same_every_time(tmp_path):
    first = [path.read_bytes() for path in samples.write_sample("simulated", tmp_path / "1")]
    second = [path.read_bytes() for path in samples.write_sample("simulated", tmp_path / "2")]
    assert first == second


def test_magpis_is_found_without_importing_astroquery(tmp_path):
    if importlib.util.find_spec("astroquery") is None:
        pytest.fail("the test extra holds astroquery")
    (image,) = samples.write_sample("magpis", tmp_path)
    assert fits.getdata(image).shape == (300, 300)
    assert "astroquery" not in sys.modules


def test_magpis_without_astroquery_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(samples.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps astroquery"):
        samples.write_sample("magpis", tmp_path)


def test_unknown_samples_suggest(tmp_path):
    with pytest.raises(ConfigurationError, match="did you mean 'magpis'"):
        samples.write_sample("magpies", tmp_path)


def test_the_readme_works_as_written(tmp_path):
    """The shell line, then the Python blocks, in one folder."""
    (line,) = [b for b in blocks("README.md", "sh") if "sample magpis" in b]
    done = shell(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "magpis.quicklook.png").is_file()
    (line,) = [b for b in blocks("README.md", "sh") if "cyclades simulate" in b]
    done = shell(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").is_file()
    (tmp_path / "readme.py").write_text("".join(blocks("README.md", "python")), "utf-8")
    done = shell("python readme.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "total_flux" in done.stdout
    (tmp_path / "route.yaml").write_text(blocks("README.md", "yaml")[0], "utf-8")
    assert check_file(tmp_path / "route.yaml") == []


def test_a_stage_of_another_package_works_as_contributing_says(tmp_path):
    (tmp_path / "toy_package").mkdir()
    (tmp_path / "toy_package" / "__init__.py").touch()
    code = blocks("CONTRIBUTING.md", "python")[0]
    (tmp_path / "toy_package" / "detection.py").write_text(code, "utf-8")
    info = tmp_path / "toy_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    group, point = re.search(
        r'"(cyclades\.stages)"\]\n"(detection\.toy)" = ', blocks("CONTRIBUTING.md", "toml")[0]
    ).groups()
    value = re.search(r'= "(toy_package.*?)"', blocks("CONTRIBUTING.md", "toml")[0]).group(1)
    (info / "entry_points.txt").write_text(f"[{group}]\n{point} = {value}\n")
    samples.write_sample("simulated", tmp_path)
    done = shell(
        "cyclades stages toy && cyclades run simulated.fits -o out --set detection=toy"
        " --set detection.half=9",
        tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "half: int; pixels; default 6; >= 1" in done.stdout
    assert "out/simulated.catalogue.fits: 1 component in" in done.stdout
