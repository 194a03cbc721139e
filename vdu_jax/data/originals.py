"""Addresses, sizes in bytes and SHA-256 sums of the original files.

Those of MNIST, Fashion-MNIST and CIFAR-10 are from the checksum files of TensorFlow Datasets.
Stanford publishes no checksum of Tiny ImageNet; its size and SHA-256 are those that several
independent public repositories record for this address.
"""

from collections.abc import Mapping

Files = Mapping[str, tuple[str, int, str]]  # file name -> (address, bytes, SHA-256)

_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_STANFORD = "http://cs231n.stanford.edu"


def _table(base: str, *rows: tuple[str, int, str]) -> Files:
    return {name: (f"{base}/{name}", size, sha256) for name, size, sha256 in rows}


# fmt: off
MNIST = _table(
    _MNIST,
    ("train-images-idx3-ubyte.gz", 9912422,
     "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    ("train-labels-idx1-ubyte.gz", 28881,
     "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ("t10k-images-idx3-ubyte.gz", 1648877,
     "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    ("t10k-labels-idx1-ubyte.gz", 4542,
     "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)

FASHION_MNIST = _table(
    _FASHION,
    ("train-images-idx3-ubyte.gz", 26421880,
     "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ("train-labels-idx1-ubyte.gz", 29515,
     "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("t10k-images-idx3-ubyte.gz", 4422102,
     "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("t10k-labels-idx1-ubyte.gz", 5148,
     "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)

CIFAR10 = _table(
    _CIFAR,
    ("cifar-10-binary.tar.gz", 170052171,
     "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
)

TINY_IMAGENET = _table(
    _STANFORD,
    ("tiny-imagenet-200.zip", 248100043,
     "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"),
)
# fmt: on
