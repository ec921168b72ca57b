"""Class names of labeled datasets: from folders, ``classes.txt`` and what the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clipdense.data.image_lists import numbered_lines
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.wording import counted
from clipdense.vocab.names import check_name, first_repeated, normalize, places


def folder_names(
    root: Path, folders: list[str], given: Sequence[str] | Mapping[str, str] | None
) -> list[str]:
    """A name for each folder of a dataset.

    Args:
        root: of the dataset; its ``classes.txt`` is read if no names are given.
        folders: of the classes.
        given: names in the order of the folders, or a dict from folder to name; None for ``classes.txt``, or
            else the names of the folders.

    Raises:
        InputError: names that do not fit the folders, or two of the same name.
    """
    where = 'class_names'
    if given is None and (root / 'classes.txt').exists():
        where, given = str(root / 'classes.txt'), read_folder_names(root / 'classes.txt')
    own = [readable(folder) for folder in folders]
    if given is None:
        names = own
    elif isinstance(given, Mapping):
        by_form = {normalize(folder): name for folder, name in given.items()}
        for folder in folders:
            if folder not in given and normalize(folder) not in by_form:
                raise InputError(f'{where} has no name for the folder {folder!r}.{nearest(folder, given)}')
        names = [given[one] if one in given else by_form[normalize(one)] for one in folders]
    elif len(given) != len(folders):
        raise InputError(
            f'{where} has {counted(len(given), "name")}, but {root} has {counted(len(folders), "subfolder")}'
        )
    else:
        names = list(given)
    names = [check_name(name, f'class name of {where}') for name in names]
    check_order(own, names if given is not None and not isinstance(given, Mapping) else [], where)
    repeated = first_repeated(names)
    if repeated:
        raise InputError(f'two subfolders of {root} have the same class name: {", ".join(repeated)}')
    return names


def check_order(own: Sequence[str], given: Sequence[str], where: str) -> None:
    """Check that class names given for labels do not name the classes of a dataset in another order.

    Args:
        own: names of the dataset, by label.
        given: names to be used instead, by label.
        where: what gives them, for the message.

    Raises:
        InputError: a name of the dataset is given for another label.
    """
    place = places(given)
    for label, name in enumerate(own):
        other = place.get(normalize(name), label)
        if other != label:
            raise InputError(
                f'{where} has another order than the dataset: label {label} is {name!r}, '
                f'which is number {other} of the names given'
            )


def read_folder_names(path: Path) -> list[str] | dict[str, str]:
    """Lines of ``classes.txt``: names, or folders with names."""
    lines = numbered_lines(path)
    if not any('\t' in line for _, line in lines):
        return [line for _, line in lines]
    names: dict[str, str] = {}
    for number, line in lines:
        folder, _, name = (part.strip() for part in line.partition('\t'))
        if not name:
            raise InputError(
                f'{path}, line {number}: {line!r} must be FOLDER, a tab and NAME, as other lines are'
            )
        if names.setdefault(folder, name) != name:
            raise InputError(
                f'{path} has two names for the folder {folder!r}: {names[folder]!r} and {name!r}'
            )
    return names


def readable(name: str) -> str:
    """The name of a folder or of a dataset's class as text, with spaces for underscores."""
    return name.replace('_', ' ').strip()
