"""Tensors of a safetensors file: eight bytes that tell the header's length, the header as JSON, the elements."""

import json
import struct


def read_tensors(path):
    import torch
    types = dict(F32=torch.float32, F64=torch.float64, BF16=torch.bfloat16, F16=torch.float16, BOOL=torch.bool, I64=torch.int64)
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    return {
        name: torch.frombuffer(data[slice(*facts["data_offsets"])], dtype=types[facts["dtype"]]).reshape(facts["shape"]).clone()
        for name, facts in header.items()}
