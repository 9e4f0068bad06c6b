"""Where pictures come from: `load` any source to a `DataSet`; `decode` and `fit` one picture the same way.

images.py    Images, DataSet, Rejected, Sizes: what the rest of the house handles
splits.py    names of splits; the seeded, stratified hold-out
decode.py    one picture to one array
opened.py    pictures found and not yet decoded: what every source hands over
plan.py      which size and channels all pictures of a source become
spread.py    work on many processors, results in order
pixels.py    many pictures to one array of one size
cache.py     decoded pictures kept on disk and mapped
stream.py    pictures decoded batch by batch, where there is no room for all
gather.py    an opened source to decoded splits, and what was left out
labels.py    labels as rows hold them to class numbers
columns.py   which columns of a table are meant
folder.py    a folder per class
tables.py    rows of parquet and Arrow files
parquet.py   Hugging Face's layouts
manifest.py  tables of paths and labels
shards.py    tar shards
listing.py   pictures without labels: folders, patterns, lists
fetch.py     files of known content over HTTPS
hub.py       hf:owner/name
named.py     digits, CIFAR, MNIST
shapes.py    shapes and digits on clutter, drawn from a seed, with masks
load.py      load: picks among the above
describe.py  what a data set is, in numbers and at a glance
scan.py      every picture looked at in full
checking.py  what is wrong or odd with a data set
"""

from vitreous.data.checking import Findings, check
from vitreous.data.decode import decode, fit
from vitreous.data.describe import contact_sheet, describe
from vitreous.data.images import DataSet, Images, Mapped, Pixels, Rejected, Sizes
from vitreous.data.listing import listed
from vitreous.data.load import load
from vitreous.data.splits import split

__all__ = [
    "DataSet",
    "Findings",
    "Images",
    "Mapped",
    "Pixels",
    "Rejected",
    "Sizes",
    "check",
    "contact_sheet",
    "decode",
    "describe",
    "fit",
    "listed",
    "load",
    "split",
]
