"""Messages of the contract, of any content: every field of every message, at the edges of its type and in between."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

MOST_DEEP = 4
TEXTS = st.sampled_from(
    ["", "tenants/local", "tenants/local/sessions/a", "tenants/acme/sessions/a", "a", "rule", "scripted", "opus", "ada"]
) | st.text(max_size=30).map(lambda text: text.encode(errors="ignore").decode())
INTEGERS = {
    kind: st.sampled_from([0, 1, low, high]) | st.integers(low, high)
    for low, high, kinds in (
        (-(2**31), 2**31 - 1, (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM)),
        (-(2**63), 2**63 - 1, (FieldDescriptor.CPPTYPE_INT64,)),
        (0, 2**32 - 1, (FieldDescriptor.CPPTYPE_UINT32,)),
        (0, 2**64 - 1, (FieldDescriptor.CPPTYPE_UINT64,)),
    )
    for kind in kinds
}


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], deep: int = 0) -> Any:
    """A message of this kind, of which some fields are set."""
    made = kind()
    fields: list[FieldDescriptor] = list(kind.DESCRIPTOR.fields)
    for field in draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda one: one.name)) if fields else ():
        if field.message_type is not None and deep >= MOST_DEEP:
            continue
        if _is_map(field.message_type):
            getattr(made, field.name).update({"": ""} if draw(st.booleans()) else {"a": "b" * 65})
        elif field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(_value(field, deep), max_size=3)))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(draw(_value(field, deep)))
        else:
            setattr(made, field.name, draw(_value(field, deep)))
    return made


def _is_map(kind: Descriptor | None) -> bool:
    return kind is not None and kind.GetOptions().map_entry


def _value(field: FieldDescriptor, deep: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type._concrete_class, deep + 1)
    if field.cpp_type in INTEGERS:
        return INTEGERS[field.cpp_type]
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.floats(width=32)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    return TEXTS
