"""Names the packages, which pyproject.toml cannot: folders of ``lib/`` are installed as parts of
``dmr_jrg``, and ``experiments/`` beside them."""

from setuptools import find_packages, setup

setup(
    packages=[
        "dmr_jrg",
        "dmr_jrg.experiments",
        *(f"dmr_jrg.{name}" for name in find_packages("lib")),
    ],
    package_dir={"dmr_jrg": "lib", "dmr_jrg.experiments": "experiments"},
    package_data={"": ["**/*.yaml", "**/*.css", "**/*.js", "**/*.html"]},
)
