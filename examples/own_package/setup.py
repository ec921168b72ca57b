"""A package of methods for clipdense: the entry-point group names what each folder describes."""

from setuptools import find_packages, setup

setup(
    name='toymethods',
    version='0.1.0',
    packages=find_packages(),
    install_requires=['clipdense'],
    entry_points={
        'clipdense.methods': [
            'smoothed = toymethods.smoothed.method:METHOD',
            'colors = toymethods.colors.method:METHOD',
            'grid = toymethods.grid.method:METHOD',
            'synonyms = toymethods.synonyms.method:METHOD',
        ]
    },
)
