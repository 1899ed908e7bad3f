"""ONNX graphs, written operator by operator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from onnx import NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSET, IR_VERSION = 20, 9
"""Versions of the operators and of the file format: the first with the operator Gelu, which ONNX Runtime 1.17 reads."""

Operand = str | np.ndarray
"""The name of a value of the graph, or a constant."""


class Graph:
    """A graph under construction. Methods that add a node return the name of its output."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[Any, TensorProto] = {}

    def add(self, operator: str, *operands: Operand, name: str | None = None, **attributes: Any) -> str:
        """Add a node."""
        name = name or f"{operator}_{len(self._nodes)}"
        inputs = [operand if isinstance(operand, str) else self.constant(operand) for operand in operands]
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def cast(self, operand: Operand, dtype: DTypeLike) -> str:
        return self.add("Cast", operand, to=_type(dtype))

    def reshape(self, operand: Operand, *shape: int) -> str:
        """Add a Reshape. A length of 0 stays as it is."""
        return self.add("Reshape", operand, np.array(shape))

    def transpose(self, operand: Operand, *axes: int) -> str:
        return self.add("Transpose", operand, perm=axes)

    def slice(self, operand: Operand, axis: int, start: int, stop: int) -> str:
        return self.add("Slice", operand, np.array([start]), np.array([stop]), np.array([axis]))

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """Add a constant and return its name. Equal constants without a name of their own are stored once."""
        key = name or (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = name or f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array.copy(order="C"), name)
        return str(self._constants[key].name)

    def to_bytes(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        *,
        version: str,
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the content of a file with the graph, which ONNX has checked. `version` is that of vitab."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, list(self._constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vitab",
            producer_version=version,
        )
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def value(name: str, dtype: DTypeLike, shape: Sequence[int | str], description: str) -> ValueInfoProto:
    """Return the declaration of an input or output. A dimension with a name may have any length."""
    return helper.make_tensor_value_info(name, _type(dtype), shape, description)


def _type(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
