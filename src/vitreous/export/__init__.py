"""A classifier to run elsewhere.

programs.py   the whole way from pixels to scores as one file: ONNX, ONNX in int8, a torch.export program
folders.py    weights and settings as transformers and timm load them
parity.py     does what was written answer as the classifier does?
exporting.py  from a run to a file or folder that was checked
"""

from vitreous.export.exporting import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
