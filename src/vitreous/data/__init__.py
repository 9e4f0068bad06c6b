"""Where pictures come from: `load` any source to a `DataSet`; `decode` and `fit` one picture the same way.

images.py    Images, DataSet, Rejected, Sizes: what the rest of the house handles
splits.py    names of splits; the seeded, stratified hold-out
decode.py    one picture to one array
gather.py    many pictures to one tensor of one size
cache.py     decoded pictures kept on disk
folder.py    a folder per class
listing.py   pictures without labels: folders, patterns, lists
parquet.py   Hugging Face's layout
fetch.py     files of known content over HTTPS
hub.py       hf:owner/name
named.py     digits, CIFAR, MNIST
shapes.py    shapes and digits on clutter, drawn from a seed, with masks
load.py      load: picks among the above
describe.py  what a data set is, in numbers and at a glance
"""

from vitreous.data.decode import decode, fit
from vitreous.data.describe import contact_sheet, describe
from vitreous.data.images import DataSet, Images, Rejected, Sizes
from vitreous.data.listing import listed
from vitreous.data.load import load
from vitreous.data.splits import split

__all__ = [
    "DataSet",
    "Images",
    "Rejected",
    "Sizes",
    "contact_sheet",
    "decode",
    "describe",
    "fit",
    "listed",
    "load",
    "split",
]
