"""Reading checkpoints of unknown origin: tensors, numbers and DCP's own table of contents, and nothing that runs.

DCP itself unpickles what it finds, and a pickle may call any function. So a folder that came from somewhere else can be
resumed like one's own.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import ReadItem

METADATA = ".metadata"
"""DCP's table of contents."""
OF_CONTENTS = {
    metadata.__name__: {
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("ChunkStorageMetadata", "TensorStorageMetadata", "BytesStorageMetadata"),
    },
    filesystem.__name__: {"_StorageInfo"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},
}
"""All that a table of contents is made of, by module."""


class Reader(FileSystemReader):
    """Raises pickle.UnpicklingError where the table of contents holds anything else."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            contents = _Unpickler(file).load()
        if not isinstance(contents, Metadata):
            raise pickle.UnpicklingError(f"{METADATA} holds {type(contents).__name__}")
        contents.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return contents


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in OF_CONTENTS.get(module, ()):
            raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which no table of contents needs")
        return super().find_class(module, name)


class Planner(DefaultLoadPlanner):
    """Numbers of the optimizer are pickled too: they are read as torch reads weights."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        number = torch.load(value, weights_only=True)
        super().load_bytes(read_item, _pickled(number))


def _pickled(value: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer
