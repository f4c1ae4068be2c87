"""What there is to tune: the settings of a kernel, those to try beside them, and for which calls.

A kernel's settings are whole numbers that its launcher knows before the launch: sizes of tiles,
warps, steps on their way. The file of the kernel gives the default and the reason for it; what is
faster on a GPU only a search there can tell (search.py), and _tuned.py keeps what it told.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from fastconv.dispatch.call import known_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")  # a frozen dataclass of integers

SPACES: dict[str, "Space[Any]"] = {}


@dataclass(frozen=True)
class Space(Generic[S]):
    """The settings of one kernel: the default and, by field, the other values worth a try.

    The fields come in the order of what they may gain: a search settles one after the other.
    """

    name: str
    default: S
    others: Mapping[str, Sequence[int]]

    def __post_init__(self) -> None:
        SPACES[self.name] = self

    def steps(self) -> int:
        """How many a search tries beside the default."""
        return sum(map(len, self.others.values()))

    def values(self, field: str) -> tuple[int, ...]:
        return (getattr(self.default, field), *self.others.get(field, ()))

    def like(self, settings: S, field: str) -> Iterator[S]:
        """settings with each other value of a field."""
        for value in self.values(field):
            if value != getattr(settings, field):
                yield replace(settings, **{field: value})

    def read(self, written: Mapping[str, Any]) -> S:
        """Settings as asdict has them. Raises ValueError for what no search here would try."""
        fields = asdict(self.default)
        known = set(written) == set(fields) and all(type(n) is int for n in written.values())
        if not known or any(written[name] not in self.values(name) for name in fields):
            raise ValueError(f"{self.name} has no such settings: {dict(written)}")
        return replace(self.default, **written)


class Bucket(NamedTuple):
    """Calls that take the same settings: of one kind, and in each size alike up to the next power
    of two.
    """

    space: str
    kind: str  # what must be the same, such as 'dtype=bfloat16 kernel=3x3'
    sizes: tuple[int, ...]  # each a power of two, the largest of the bucket

    @classmethod
    def of(cls, space: str, sizes: Sequence[int], kind: Mapping[str, Any]) -> "Bucket":
        told = " ".join(f"{name}={_text(value)}" for name, value in kind.items())
        powers = (1 << (max(known_size(size), 1) - 1).bit_length() for size in sizes)
        return cls(space, told, tuple(powers))

    def __str__(self) -> str:
        return f"{self.space} up to {'x'.join(map(str, self.sizes))}, {self.kind}"


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return str(value).removeprefix("torch.")
