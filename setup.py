"""Names the packages, which pyproject.toml cannot: the folders of ``lib/`` are installed as those
of ``dmr_jrg``, and ``experiments/`` beside them."""

from setuptools import find_namespace_packages, setup

FOLDERS = {"dmr_jrg": "lib", "dmr_jrg.experiments": "experiments"}


def packages(name: str, folder: str) -> list[str]:
    """A package and all below it; those of data, without modules, too."""
    below = find_namespace_packages(folder, exclude=["*__pycache__"])
    return [name, *(f"{name}.{inner}" for inner in below)]


setup(
    packages=[each for name, folder in FOLDERS.items() for each in packages(name, folder)],
    package_dir=FOLDERS,
    package_data={"": ["*.yaml", "*.css", "*.js", "*.html"]},
)
