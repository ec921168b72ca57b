"""Classes and functions that a config may name as text.

Text comes from YAML, JSON and ``-o``.  It names what is registered in clipdense, MMEngine or mmdet (or in an
installed package with methods for clipdense), a module of ``torch.nn`` or an optimizer of ``torch.optim``;
never any importable object, as in MMEngine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import isclass
from typing import Any

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.packages import imported_object

TYPE_KEYS = ('type', 'constructor', 'runner_type')  # entries that MMEngine looks up, and imports
_SCOPE_KEYS = ('_scope_', 'default_scope')  # packages that MMEngine imports
_SCOPES = ('clipdense', 'mmengine', 'mmdet', 'mmcv')
_TORCH = ('torch.nn.', 'torch.optim.')
_OPERATIONS = (  # of mmcv.ops, which mmdet looks up by name; not registered
    'nms',
    'soft_nms',
    'nms_match',
    'nms_rotated',
    'RoIAlign',
    'RoIPool',
    'DeformRoIPoolPack',
    'ModulatedDeformRoIPoolPack',
    'SimpleRoIAlign',
)
_EVALUATES_TEXT = ('CameraMotionCompensation', 'RFSearchHook')  # registered, and call eval()


def registered(name: str, where: str) -> Any:
    """The object of a registered name; names of MMEngine without a dot, and those with a scope, stay text.

    Raises:
        InputError: the name is not registered.
    """
    path = name.split('.')
    if path[-1] in _EVALUATES_TEXT:
        raise InputError(f'{where}: {name} runs text as code; only a .py config may name it')
    if len(path) == 1:
        if (found := only_one(name)) is not None:
            return found
        if name in _OPERATIONS or (_is_registered(name) and find_spec(name) is None):
            return name
    elif path[0] in ('torch', *_SCOPES, *_packages()):
        if path[0] in ('mmdet', 'mmcv'):
            _install_mmcv()
        if len(path) == 2 and path[0] in _SCOPES and path[1] in _names(path[0]):
            return name
        found = imported_object(name)
        if found is not None and (_of_torch(found) or any(found is one for one in _objects())):
            return found
    raise InputError(f'{where}: {_unknown(name, path)}')


def part_of_model(
    name: str, where: str, packages: Collection[str] = ('clipdense',), others: Collection[Any] = ()
) -> Any:
    """The object of a full name that is registered as a part of models or as a transform, and no other.

    Args:
        name: dotted, as ``plain_config`` writes it.
        where: dotted name of the entry, for the message.
        packages: that may register it.
        others: further objects that are allowed.

    Raises:
        InputError: any other name.
    """
    from clipdense.registry import MODELS, TRANSFORMS

    found = imported_object(name) if name.split('.')[0] in packages and '.' in name else None
    parts = (*MODELS.module_dict.values(), *TRANSFORMS.module_dict.values(), *others)
    if found is None or not any(found is one for one in parts):
        raise InputError(f'{where}: type {name!r} is not registered in {", ".join(packages)}')
    return found


def resolve_types(value: Any, where: str = '', look_up: Callable[[str, str], Any] = registered) -> Any:
    """Entries from text, with dotted names of types replaced by their objects.

    Args:
        value: data of a config, or a part of it.
        where: its dotted name, for messages.
        look_up: name and dotted name of the entry -> the object.

    Raises:
        InputError: a type that is not the name of a registered class, ``custom_imports``, or a scope that is
            another package.
    """
    if isinstance(value, list | tuple):
        return type(value)(
            resolve_types(item, _inside(where, index), look_up) for index, item in enumerate(value)
        )
    if not isinstance(value, Mapping):
        return value
    return {key: resolve_entry(key, item, _inside(where, key), look_up) for key, item in value.items()}


def resolve_entry(key: str, value: Any, where: str, look_up: Callable[[str, str], Any] = registered) -> Any:
    """One entry of ``resolve_types``.

    Args:
        key: name of the entry in its part.
        value: of the entry.
        where: its dotted name, for messages.
        look_up: as there.

    Raises:
        InputError: as ``resolve_types``.
    """
    if key == 'custom_imports' and value:
        raise InputError(f'{where} imports code, which only a .py config may do')
    if key in _SCOPE_KEYS and value is not None and value not in _SCOPES:
        raise InputError(f'{where} must be one of {", ".join(_SCOPES)}, got {value!r}')
    if key in TYPE_KEYS and isinstance(value, str):
        return look_up(value, where)
    if key in TYPE_KEYS and isinstance(value, list | tuple | dict | int | float):
        raise InputError(f'{where} must be the name of a class, got {value!r}')
    return resolve_types(value, where, look_up)


def _unknown(name: str, path: list[str]) -> str:
    if len(path) > 1:
        return (
            f'{name!r} is not registered in clipdense, mmengine or mmdet, nor a class of torch.nn or '
            'torch.optim; YAML, JSON and -o can name no others, a .py config can'
        )
    return (
        f'no class {name!r} is registered in clipdense or mmengine.{nearest(name, _names())} Classes of a '
        'method are named in full (clipdense.methods.lseg.segmenter.LSeg), those of mmdet as mmdet.NAME'
    )


def _inside(where: str, key: Any) -> str:
    return f'{where}.{key}' if where else str(key)


def _of_torch(found: Any) -> bool:
    return isclass(found) and f'{found.__module__}.'.startswith(_TORCH)


def _registries() -> Iterator[Any]:
    from mmengine import registry as of_mmengine

    from clipdense import registry as ours

    for module in (ours, of_mmengine):
        for one in vars(module).values():
            if isinstance(one, of_mmengine.Registry):
                yield one
                yield from one.children.values()


def _objects() -> Iterator[Any]:
    for registry in _registries():
        yield from registry.module_dict.values()


def _names(scope: str = 'clipdense') -> set[str]:
    """All registered names; imports the modules of a package that register something."""
    if scope == 'mmdet':
        import_module('mmdet.registry')
    for registry in _registries():
        if registry.scope == scope:
            registry.import_from_location()
    return {name for registry in _registries() for name in registry.module_dict}


def only_one(name: str) -> Any:
    """The object of that name that clipdense registers; None where there is none, or several."""
    _names()
    found = [
        one.module_dict[name] for one in _registries() if one.scope == 'clipdense' and name in one.module_dict
    ]
    return found[0] if found and all(one is found[0] for one in found) else None


def known_names() -> set[str]:
    """Names without a dot that may be a type."""
    names = {*_names(), *_OPERATIONS}
    if find_spec('mmcv') is not None:
        _install_mmcv()
        import_module('mmcv.cnn')  # registers layers, such as BN
        names |= _names()
    return names


def _is_registered(name: str) -> bool:
    if name in _names():
        return True
    if find_spec('mmcv') is None:
        return False
    _install_mmcv()
    import_module('mmcv.cnn')  # registers layers, such as BN
    return name in _names()


def _install_mmcv() -> None:
    from clipdense.mmcv_ops import install

    install()


def _packages() -> set[str]:
    """Installed packages with methods for clipdense."""
    return {point.value.partition(':')[0].split('.')[0] for point in entry_points(group='clipdense.methods')}
