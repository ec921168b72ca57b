"""Installation: ``pip install -e .`` or, for work on clipdense itself, ``pip install -e ".[test]"``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

REQUIRES = [
    'torch>=2.4',
    'torchvision>=0.19',
    'mmengine==0.10.7',
    'mmdet==3.3.0',
    'mmcv-lite==2.1.0',
    'pycocotools>=2.0.8',
    'faster-coco-eval>=1.6',
    'timm>=1.0',
    'open_clip_torch>=3.3',  # carries the BPE merges and the list of published weights
    'opencv-python>=4.8',
    'scipy>=1.10',
    'numpy>=1.24',
    'Pillow>=10.1',
    'safetensors>=0.4.3',
    'webdataset>=1.0.2,<2',
    'ftfy>=6.1',
    'regex>=2023.10.3',
    'lemminflect>=0.2.3',
    'typer>=0.15',
    'rich>=13.7',
]

EXTRAS = {
    'demo': ['gradio>=5'],
    'onnx': ['onnx>=1.16', 'onnxruntime>=1.18', 'onnxscript>=0.1'],
    'viz': ['supervision>=0.25'],
    'nouns': ['HanTa>=1.1'],
    'test': [
        'pytest>=8',
        'pytest-xdist>=3.5',
        'hypothesis>=6.100',
        'transformers>=4.45',
        'ruff==0.17.5',
        'mypy>=1.15',
        'pre-commit>=3.7',
    ],
}


def config_packages() -> list[str]:
    """The recipes lie in configs/ and travel in the wheel as clipdense.configs."""
    folders = [path for path in (ROOT / 'configs').rglob('*') if path.is_dir() and any(path.glob('*.py'))]
    names = ['.'.join(path.relative_to(ROOT).parts) for path in folders]
    return [f'clipdense.{name}' for name in sorted(['configs', *names])]


setup(
    name='clipdense',
    version='0.1.0',
    description='Open-vocabulary dense prediction on CLIP: pre-train, segment, detect, evaluate',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    python_requires='>=3.10',
    packages=find_packages(include=['clipdense', 'clipdense.*']) + config_packages(),
    package_dir={'clipdense.configs': 'configs'},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['clipdense = clipdense.cli:main']},
)
