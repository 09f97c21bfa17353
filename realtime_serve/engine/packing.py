"""From a checkpoint to packed weights: what each section holds, and in which format.

All of it is decided from names, shapes and storage types, before a weight is read. So the
server knows what a packed file must look like without unpacking anything, and the process that
packs (packing_child.py) comes to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

from realtime_serve._kernels import packed_nbytes
from realtime_serve.engine.checkpoint_fit import require_all_placed, require_shape
from realtime_serve.engine.section_writer import write_matrix, write_table, write_vector
from realtime_serve.nn.llama_config import LlamaConfig
from realtime_serve.nn.packed_llama import (
    MatrixPlan,
    SectionPlan,
    Source,
    TablePlan,
    VectorPlan,
    plan_sections,
)
from realtime_serve.weights.checkpoint import Checkpoint
from realtime_serve.weights.encode import row_nbytes
from realtime_serve.weights.packed_file import PackedWeights, Section
from realtime_serve.weights.stored_tensor import StoredTensor

PackedDType: TypeAlias = Literal["float32", "bfloat16", "q8", "q4"]


class _Formats(NamedTuple):
    """What a dtype makes of a model.

    Args:
        matrix: Format of the matrices.
        table: Format of the embedding.
    """

    matrix: str
    table: str


_FORMATS: dict[PackedDType, _Formats] = {
    "float32": _Formats("f32", "f32"),
    "bfloat16": _Formats("bf16", "bf16"),
    "q8": _Formats("q8", "Q8_0"),
    "q4": _Formats("q4", "Q8_0"),
}

_FOUR_BIT_TYPES = frozenset({"Q4_0", "Q4_1"})
_EIGHT_BIT_TYPES = frozenset({"Q8_0"})


class _Work(NamedTuple):
    """One section that is to be filled.

    Args:
        plan: What it is.
        tensors: What stands in it.
        section: Its form.
    """

    plan: SectionPlan
    tensors: tuple[StoredTensor, ...]
    section: Section


class Packing:
    """How a checkpoint's weights are packed.

    Args:
        checkpoint: The weights, of a configuration that the native network can run. What a
            person should know is added to its notices.
        dtype: What they are packed for.

    Raises:
        ModelLoadError: The model is not supported, or a tensor is missing, superfluous or of
            the wrong shape.

    Attributes:
        sections: The packed form.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: PackedDType) -> None:
        llama = LlamaConfig.from_hf(checkpoint.config)
        self._checkpoint = checkpoint
        self._dtype: PackedDType = dtype
        self._work = [self._prepare(plan) for plan in plan_sections(llama)]
        self.sections: Sequence[Section] = [work.section for work in self._work]
        placed = {source.tensor for work in self._work for source in _sources(work.plan)}
        require_all_placed(checkpoint, placed, head_is_tied=llama.tie_word_embeddings)

    def fill(self, packed: PackedWeights, on_progress: Callable[[float], None]) -> None:
        """Read all weights and pack them, one section after the other.

        Args:
            packed: Sections to be written.
            on_progress: Told after each section which share of all is done, up to 1.

        Raises:
            ModelLoadError: Weights cannot be read, or are not finite numbers.
        """
        total = sum(work.section.nbytes for work in self._work)
        done = 0
        for plan, tensors, section in self._work:
            data = packed[section.name].data
            match plan:
                case VectorPlan():
                    write_vector(tensors, data)
                case MatrixPlan():
                    write_matrix(tensors, section.format, data, alternate=plan.alternate)
                case TablePlan():
                    write_table(tensors[0], section.format, data)
            done += section.nbytes
            on_progress(done / total)

    def _prepare(self, plan: SectionPlan) -> _Work:
        tensors = tuple(self._find(source, plan) for source in _sources(plan))
        return _Work(plan, tensors, _section(plan, self._format(plan, tensors)))

    def _find(self, source: Source, plan: SectionPlan) -> StoredTensor:
        tensor = self._checkpoint.stored(source.tensor)
        where = f"{self._checkpoint.path}: {source.tensor}"
        require_shape(where, tensor.shape, (source.size, *_inner_shape(plan)))
        return replace(tensor, name=where)

    def _format(self, plan: SectionPlan, tensors: Sequence[StoredTensor]) -> str:
        match plan:
            case VectorPlan():
                return "f32"
            case TablePlan():
                return _FORMATS[self._dtype].table
            case MatrixPlan() if self._dtype == "q4":
                return _four_bit_format(plan, tensors)
            case MatrixPlan():
                return _FORMATS[self._dtype].matrix


def _four_bit_format(plan: MatrixPlan, tensors: Sequence[StoredTensor]) -> str:
    """Stored codes stay as they are where they can; a matrix has one format for all its parts."""
    types = {tensor.type for tensor in tensors}
    if types & _EIGHT_BIT_TYPES or (plan.is_head and not types <= _FOUR_BIT_TYPES):
        return "q8"
    return "q4"


def _sources(plan: SectionPlan) -> tuple[Source, ...]:
    return (plan.source,) if isinstance(plan, TablePlan) else plan.sources


def _inner_shape(plan: SectionPlan) -> tuple[int, ...]:
    match plan:
        case VectorPlan():
            return ()
        case MatrixPlan():
            return (plan.depth,)
        case TablePlan():
            return (plan.width,)


def _section(plan: SectionPlan, section_format: str) -> Section:
    num_rows = sum(source.size for source in _sources(plan))
    match plan:
        case VectorPlan():
            nbytes = num_rows * 4
        case MatrixPlan():
            nbytes = packed_nbytes(section_format, num_rows, plan.depth)
        case TablePlan():
            nbytes = num_rows * row_nbytes(section_format, plan.width)
    shape = (num_rows, *_inner_shape(plan))
    return Section(name=plan.name, format=section_format, shape=shape, nbytes=nbytes)
