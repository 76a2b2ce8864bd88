"""Int4 products by onnxruntime's MatMulNBits, for CPUs: activations go in as int8, a scale for each group of columns.

Source: onnxruntime's contrib operator com.microsoft.MatMulNBits, accuracy_level 4: integers multiply integers, which
CPUs with VNNI do four times as often as they unpack four bits to bfloat16.
"""

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from qvl.quantize.gptq import BITS, LEVELS, GPTQLinear, by_group, unpack

NAME = "onnxruntime MatMulNBits with int8 activations"
INT8_ACTIVATIONS = 4  # accuracy_level


def fits(layer: GPTQLinear) -> bool:
    """Whether zero points fit four bits: GPTQ's go up to 16."""
    return bool((unpack(layer.stored()[1]) < LEVELS - 1).all())  # stored less one


class OnnxLinear(nn.Module):
    """A GPTQLinear for inference; x of any type."""

    def __init__(self, layer: GPTQLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        values, scales, zeros, self.order = by_group(layer)
        columns = -values.shape[1] % layer.group_size
        self._session = _session(F.pad(values, (0, columns)), scales, zeros, layer.in_features, layer.group_size)

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        rows = x.reshape(-1, self.in_features).float()
        if self.order is not None:
            rows = rows[:, self.order]
        [found] = self._session.run(None, {"x": rows.contiguous().numpy()})
        product = torch.from_numpy(found)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*x.shape[:-1], self.out_features).to(x.dtype)


def _session(
    values: Tensor, scales: Tensor, zeros: Tensor, columns: int, group_size: int
) -> onnxruntime.InferenceSession:
    """values (out, in) in [0, 16), scales and zeros (groups, out) -> what multiplies x (M, in) by the matrix."""
    out_features = len(values)
    stored = {
        "values": _packed(values).view(out_features, -1, group_size // 2),
        "scales": scales.t().contiguous().flatten(),
        "zeros": _packed(F.pad(zeros.t().to(torch.uint8), (0, len(zeros) % 2))).flatten(),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", *stored], ["y"], domain="com.microsoft",
        K=columns, N=out_features, bits=BITS, block_size=group_size, accuracy_level=INT8_ACTIVATIONS,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "int4",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", out_features])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(one.numpy()), name) for name, one in stored.items()],
    )
    known = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=known, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Each matrix has its threads: those that wait must not take the time of the one that works.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session._model_bytes = None  # it keeps them to begin anew on other devices: as much memory again
    return session


def _packed(values: Tensor) -> Tensor:
    """(..., n) in [0, 16) -> (..., n / 2) bytes, the first in the lower half."""
    pairs = values.to(torch.uint8)
    return (pairs[..., ::2] | pairs[..., 1::2] << BITS).contiguous()
