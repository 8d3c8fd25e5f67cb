"""Packaging of storyteller.

The engine depends on the Python: Theano 1.0.5 runs on 3.9 and 3.10 (with numpy before 1.24), its
continuation PyTensor from 3.11 on.
"""
import re
from pathlib import Path

from setuptools import find_packages, setup

# The repository's address, such as https://github.com/NAME/storyteller: set it before a release (CONTRIBUTING.md).
URL = ""
README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")


def absolute(text: str, url: str) -> str:
    """A page's links to files of the repository as an index of packages can follow them; without an address, the
    links' words and no pictures."""
    if not url:
        text = re.sub(r"<img\b[^>]*>\n?", "", text)
        return re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)
    text = re.sub(r'(<img\b[^>]*\bsrc=")(?!https?:)', rf"\g<1>{url}/raw/HEAD/", text)
    return re.sub(r"(\[[^\]]*\]\()(?!https?:|#)", rf"\g<1>{url}/blob/HEAD/", text)


OLD, NEW = "python_version < '3.11'", "python_version >= '3.11'"

setup(
    name="storyteller",
    version="0.1.0",
    description="Looks at a picture and tells a short story about it in the style of a book",
    long_description=absolute(README, URL),
    long_description_content_type="text/markdown",
    author="The storyteller authors",
    url=URL,
    project_urls={"Changes": f"{URL}/blob/HEAD/CHANGELOG.md", "Issues": f"{URL}/issues"} if URL else {},
    keywords="image captioning, story generation, skip-thought vectors, visual-semantic embedding, Theano, PyTensor",
    license="Apache-2.0",
    license_files=["LICENSE", "storyteller/compact/NOTICE"],
    python_requires=">=3.9,<3.15",
    packages=[*find_packages(include=["storyteller", "storyteller.*"]), "storyteller.web.samples"],
    package_dir={"storyteller.web.samples": "images"},      # of the page, beside the README's
    package_data={"storyteller": ["py.typed", "data/punkt/*", "compact/*.np[yz]", "compact/*.pkl", "compact/*.txt",
                                  "compact/NOTICE", "web/page/*"],
                  "storyteller.web.samples": ["*.jpg", "SOURCES.md"]},
    install_requires=[
        f"Theano==1.0.5; {OLD}",
        f"Lasagne==0.1; {OLD}",
        f"numpy>=1.21,<1.24; {OLD}",
        f"pytensor>=3.0,<4; {NEW}",
        f"numpy>=2.0; {NEW}",
        "scipy>=1.7",
        "nltk>=3.9",
        "pillow>=9.4",
        "tqdm>=4.60",
        "filelock>=3.12",
        "platformdirs>=3.0",
        "threadpoolctl>=3.1",
    ],
    extras_require={
        "keras": ["h5py>=3.7"],
        "heif": ["pillow-heif>=0.15", "pillow>=11.3"],     # Pillow itself reads AVIF from 11.3 on
        "zstd": ["backports.zstd>=1.0; python_version < '3.14'"],
        "word2vec": ["gensim>=4.0"],
        "evaluate": ["scikit-learn>=1.0"],
        "plot": ["matplotlib>=3.5"],
        "parquet": ["pyarrow>=12"],
        "dask": ["distributed>=2023.1"],
        "completion": ["argcomplete>=3"],
        "gpu": [f"jax[cuda12]>=0.5; {NEW} and sys_platform == 'linux'"],
        "jax": [f"jax>=0.5; {NEW}"],        # without CUDA: the GPU's code on the CPU, for tests
        "web": ["fastapi>=0.115", "uvicorn>=0.30"],
        "browser": ["playwright>=1.40"],                   # for the tests of the page, with a Chromium
        "test": ["pytest>=7", "h5py>=3.7"],
    },
    entry_points={"console_scripts": ["storyteller=storyteller.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
