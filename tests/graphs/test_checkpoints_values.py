"""What a state may hold, and that it comes back as it was."""

from __future__ import annotations

import contextlib
import enum
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, NotRequired, Required, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, PrivateAttr, RootModel, SecretStr, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from retinue.errors import DatabaseCorrupt, NotSerializable, UsageError, WorkflowChanged
from retinue.graphs.checkpoints import StateSerializer, serializer_for
from retinue.graphs.schemas import reachable_types

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: Colour


@dataclass
class Source:
    name: str
    spans: tuple[int, int]
    tags: set[str] = field(default_factory=set[str])


@dataclass(frozen=True, slots=True)
class Frozen:
    key: str
    colour: Colour = Colour.RED
    computed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "computed", len(self.key))


@pydantic_dataclass
class Checked:
    level: Level


class Finding(BaseModel):
    text: str
    source: Source | None = None
    score: float = 0.5
    by_level: dict[Level, list[int]] = {}


class Box(BaseModel, Generic[T]):
    item: T


class Aliased(BaseModel):
    """A model that its own constructor does not take back: aliases, and a validator that changes what it sees."""

    model_config = ConfigDict(extra="allow")
    inner: Finding = Field(alias="theInner")
    shout: str
    _seen: int = PrivateAttr(default=0)

    def model_post_init(self, _: Any) -> None:
        self.shout += "!"
        self._seen += 1


class Words(RootModel[list[str]]):
    pass


class Choice(TypedDict):
    colour: Colour
    point: Point


Name = NewType("Name", str)


class State(BaseModel):
    question: str
    findings: Annotated[list[Finding], "a reducer"] = []
    frozen: dict[str, Frozen | None] = {}
    checked: Checked | None = None
    choice: Choice | None = None
    box: Box[Finding] | None = None
    aliased: Aliased | None = None
    words: Words | None = None
    mode: Literal[Word.YES, "no"] = "no"
    rights: Rights = Rights.READ
    level: Level = Level.LOW
    link: HttpUrl | None = None
    name: Name = Name("x")
    constant: ClassVar[int] = 1

    @computed_field
    @property
    def length(self) -> int:
        return len(self.question)


STRICT = serializer_for(State)


def again(value: T, serializer: StateSerializer = STRICT) -> T:
    return serializer.loads_typed(serializer.dumps_typed(value))


def same(one: Any, other: Any) -> None:
    """Equal, of the same classes all the way down."""
    assert type(one) is type(other)
    assert one == other
    if isinstance(one, BaseModel):
        assert one.model_fields_set == other.model_fields_set
        same(one.__dict__, other.__dict__)
        same(one.__pydantic_private__, other.__pydantic_private__)
        same(one.__pydantic_extra__, other.__pydantic_extra__)
    elif isinstance(one, dict):
        same(list(cast(dict[Any, Any], one).items()), list(other.items()))
    elif isinstance(one, (list, tuple, deque)):
        for item, other_item in zip(cast(Iterable[Any], one), other, strict=True):
            same(item, other_item)


def in_zone(at: datetime, zone: tzinfo | None) -> datetime:
    return at.replace(tzinfo=zone)


def boxed(finding: Finding) -> Box[Finding]:
    return Box[Finding](item=finding)


findings = st.builds(
    Finding,
    text=st.text(),
    source=st.none() | st.builds(Source, st.text(), st.tuples(st.integers(), st.integers()), st.sets(st.text())),
    score=st.floats(allow_nan=False),
    by_level=st.dictionaries(st.sampled_from(Level), st.lists(st.integers())),
)
zones = (
    st.none() | st.just(UTC) | st.just(ZoneInfo("Europe/Berlin")) | st.just(timezone(timedelta(hours=-3, minutes=-30)))
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.builds(in_zone, st.datetimes(), zones),
    st.dates(),
    st.times(),
    st.times(timezones=st.just(UTC)),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.ip_addresses(),
    st.sampled_from([*Colour, *Level, *Word, Rights.READ | Rights.WRITE]),
    st.builds(Frozen, st.text(), st.sampled_from(Colour)),
    st.builds(Point, st.integers(), st.sampled_from(Colour)),
)
keys = st.one_of(st.text(), st.integers(), st.sampled_from([*Colour, *Level, *Word]), st.uuids(), st.dates())
values = st.recursive(
    scalars | findings | st.builds(boxed, findings),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.tuples(keys, st.integers()), inner, max_size=2),
        st.builds(Send, st.text(), inner),
        st.builds(Overwrite, inner),
    ),
    max_leaves=12,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_whatever_a_state_may_hold_comes_back_as_it_was(value: Any) -> None:
    same(again(value), value)


@settings(max_examples=100)
@given(st.sets(scalars.filter(lambda value: value == value)), st.lists(scalars, max_size=5))
def test_sets_and_queues_come_back_as_they_were(members: set[Any], items: list[Any]) -> None:
    same(again(members), members)
    assert again(frozenset(members)) == frozenset(members)
    same(again(deque(items, maxlen=7)), deque(items, maxlen=7))
    assert again(deque(items, maxlen=7)).maxlen == 7


ONE_OF_A_KIND: list[Any] = [
    2**200,
    -(2**64),
    Path("docs/a.md"),
    re.compile(r"\w+", re.IGNORECASE),
    ip_network("10.0.0.0/8"),
    UUID(int=7),
    Decimal("1.10"),
    date(2026, 3, 29),
    time(2, 30, fold=1),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    timedelta(days=-1, microseconds=1),
    ZoneInfo("Asia/Tokyo"),
    Interrupt({"ask": ("a", 1)}, id="i-1", response_schema={"type": "object"}),
    Command(update={"a": Colour.RED}, goto=[Send("n", 1)]),
    Words(["a"]),
    HttpUrl("https://example.com/a?b=c"),
    {"a": {1: {(2, Colour.BLUE): {3}}}},
]


@pytest.mark.parametrize("value", ONE_OF_A_KIND, ids=lambda value: type(value).__name__)
def test_one_of_a_kind_comes_back_as_it_was(value: Any) -> None:
    same(again(value), value)


def test_a_whole_state_comes_back_as_it_was() -> None:
    state = State(
        question="q",
        findings=[Finding(text="t", source=Source("s", (1, 2), {"a"}))],
        frozen={"a": Frozen("abc"), "b": None},
        checked=Checked(Level.HIGH),
        choice={"colour": Colour.BLUE, "point": Point(1, Colour.RED)},
        box=Box[Finding](item=Finding(text="u")),
        aliased=Aliased.model_validate({"theInner": {"text": "in"}, "shout": "hey", "more": [1]}),
        words=Words(["x"]),
        mode=Word.YES,
        rights=Rights.READ | Rights.WRITE,
        link=HttpUrl("http://localhost/x"),
    )
    same(again(state), state)


def test_a_model_is_not_validated_a_second_time() -> None:
    model = Aliased.model_validate({"theInner": {"text": "in"}, "shout": "hey"})
    assert again(model).shout == "hey!"
    assert JsonPlusSerializer().loads_typed(JsonPlusSerializer().dumps_typed(model)).shout != "hey!"


def test_a_model_knows_which_fields_were_set() -> None:
    assert again(Finding(text="a")).model_dump(exclude_unset=True) == {"text": "a"}


def test_a_time_from_json_keeps_its_instant() -> None:
    class Event(BaseModel):
        at: datetime

    event = Event.model_validate_json('{"at": "2026-11-20T10:00:00+02:00"}')
    back = again(event, serializer_for(Event))
    assert back == event
    assert back.at.tzinfo == timezone(timedelta(hours=2))


def test_messages_of_langchain_come_back_as_they_were() -> None:
    calls = [{"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call"}]
    talk = [HumanMessage("hi"), AIMessage("", tool_calls=calls), ToolMessage("found", tool_call_id="1")]
    same(again(talk), talk)


def test_what_changes_is_what_the_documentation_says() -> None:
    assert again(bytearray(b"x")) == b"x"
    assert again("a\ud83db") == "a?b"


# Refusals


class Unnamed(BaseModel):
    x: int = 1


class Sub(Finding):
    more: int = 1


class Live:
    pass


REFUSED: dict[str, Callable[[], Any]] = {
    "model": Unnamed,
    "subclass": lambda: Sub(text="a"),
    "inside a model": lambda: Finding.model_construct(text=Live()),
    "object": Live,
    "class": lambda: Live,
    "function": lambda: print,
    "generator": lambda: (value for value in "ab"),
    "exception": lambda: ValueError("no"),
    "secret": lambda: SecretStr("s3cret"),
    "counter": lambda: Counter("aab"),
    "ordered": lambda: OrderedDict([("a", 1)]),
    "complex": lambda: 1j,
    "other generic": lambda: Box[int](item=1),
}
HIDDEN: dict[str, Callable[[Any], Any]] = {
    "bare": lambda value: value,
    "nested": lambda value: [{"a": (value,)}],
    "sent": lambda value: Send("n", value),
    "keyed": lambda value: {1: value},
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN.keys())
def test_a_value_of_another_class_is_refused_by_name(make: Callable[[], Any], hide: Callable[[Any], Any]) -> None:
    value = make()
    inside_a_model = isinstance(value, Finding) and isinstance(cast(Any, value.text), Live)
    culprit = cast(type[Any], Live if inside_a_model else type(value))
    with pytest.raises(NotSerializable) as caught:
        STRICT.dumps_typed(hide(value))
    assert caught.value.details["type"] == f"{culprit.__module__}.{culprit.__qualname__}"
    assert culprit.__qualname__ in caught.value.message
    assert "annotations" in caught.value.hint
    assert "s3cret" not in str(caught.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerializable):
        STRICT.dumps_typed(loop)
    with pytest.raises(NotSerializable):
        STRICT.dumps_typed({1: loop})
    with pytest.raises(NotSerializable):
        STRICT.dumps_typed({"a": {1: (loop,)}})


def test_reading_a_class_that_the_state_does_not_name_imports_and_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    foreign = JsonPlusSerializer().dumps_typed(Unnamed())
    with pytest.raises(DatabaseCorrupt):
        STRICT.loads_typed(foreign)
    for tag in ("os:system", "builtins:eval", f"{__name__}:Unnamed", "subprocess:Popen"):
        planted = ormsgpack.packb(ormsgpack.Ext(1, ormsgpack.packb([tag, f"touch {proof}"])))
        with pytest.raises(WorkflowChanged):
            STRICT.loads_typed(("retinue/1", planted))
    for kind in ("pickle", "json", "msgpack", "retinue/2"):
        with pytest.raises(DatabaseCorrupt):
            STRICT.loads_typed((kind, b"cos\nsystem\n(S'true'\ntR."))
    assert not proof.exists()


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_bytes_that_make_no_sense_are_a_typed_error(noise: bytes) -> None:
    good = STRICT.dumps_typed([Finding(text="a"), Colour.RED, (1, date(2026, 1, 1))])[1]
    for body in (noise, good[: len(noise)], good[:-1] + noise):
        with contextlib.suppress(DatabaseCorrupt, WorkflowChanged):
            STRICT.loads_typed(("retinue/1", body))


# A class that changed since


def named(cls: type[T], name: str) -> type[T]:
    """The class under another's name, as after an edit of the program."""
    cls.__qualname__ = name
    return cls


def test_a_field_with_a_default_may_be_added() -> None:
    class Old(BaseModel):
        a: int
        inner: Finding = Field(alias="theInner")

    class New(BaseModel):
        a: int
        b: str = "new"
        inner: Finding = Field(alias="theInner")

    old, new = serializer_for(named(Old, "Thing")), serializer_for(named(New, "Thing"))
    back = new.loads_typed(old.dumps_typed(Old.model_validate({"a": 1, "theInner": Finding(text="x")})))
    assert (back.a, back.b, back.inner) == (1, "new", Finding(text="x"))


def test_a_model_that_no_longer_fits_is_a_changed_workflow() -> None:
    class Old(BaseModel):
        secret: str

    class New(BaseModel):
        needed: int

    old, new = serializer_for(named(Old, "Gone")), serializer_for(named(New, "Gone"))
    with pytest.raises(WorkflowChanged, match="needed") as caught:
        new.loads_typed(old.dumps_typed(Old(secret="s3cret")))
    assert "s3cret" not in str(caught.value)


def test_a_dataclass_that_no_longer_fits_is_a_changed_workflow() -> None:
    @dataclass
    class Old:
        a: int

    @dataclass
    class Grown:
        a: int
        b: int = 2

    @dataclass
    class Other:
        c: int

    old = serializer_for(named(Old, "Row"))
    stored = old.dumps_typed(Old(1))
    assert serializer_for(named(Grown, "Row")).loads_typed(stored) == Grown(1, 2)
    with pytest.raises(WorkflowChanged, match="Row"):
        serializer_for(named(Other, "Row")).loads_typed(stored)


def test_an_enum_member_that_is_gone_is_an_error() -> None:
    old, new = enum.Enum("E", "A B"), enum.Enum("E", "A")
    with pytest.raises((WorkflowChanged, DatabaseCorrupt)):
        serializer_for(new).loads_typed(serializer_for(old).dumps_typed(old["B"]))


# What a state reaches


def test_two_classes_of_one_name_are_refused_at_start() -> None:
    def make() -> type[BaseModel]:
        class Twin(BaseModel):
            pass

        return Twin

    with pytest.raises(UsageError, match="Twin"):
        serializer_for(make(), make())


def test_a_model_that_holds_itself_is_collected_once() -> None:
    class Tree(BaseModel):
        kids: list[Tree] = []

    Tree.model_rebuild()
    tree = Tree(kids=[Tree(), Tree(kids=[Tree()])])
    same(again(tree, serializer_for(Tree)), tree)


def test_an_annotation_that_names_nothing_is_said_at_start() -> None:
    @dataclass
    class Lost:
        a: Nowhere  # noqa: F821  # pyright: ignore[reportUndefinedVariable]  # that is the point

    with pytest.raises(UsageError, match="Nowhere"):
        serializer_for(Lost)


class Inner(BaseModel):
    x: int = 1


class Other(BaseModel):
    y: int = 2


Bound = TypeVar("Bound", bound=Inner)
Either = TypeVar("Either", Inner, Other)
Renamed = NewType("Renamed", Inner)
Alias = TypeAliasType("Alias", dict[str, Inner | Other])


class WithBound(BaseModel, Generic[Bound]):
    inner: Bound


class WithEither(BaseModel, Generic[Either]):
    inner: Either


class WithExtras(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Inner]  # pyright: ignore[reportIncompatibleVariableOverride]  # as pydantic says
    _other: Other = PrivateAttr(default_factory=Other)


class Derived(WithExtras):
    pass


class Total(TypedDict, total=False):
    inner: Required[Annotated[Inner, "why"]]
    other: NotRequired[list[Other]]


@dataclass
class Holder:
    alias: Alias
    renamed: Renamed | None = None
    nested: tuple[dict[str, Sequence[Total]], ...] = ()


@pytest.mark.parametrize(
    ("schema", "reached"),
    [
        (WithBound, {WithBound, Inner}),
        (WithEither, {WithEither, Inner, Other}),
        (WithBound[Inner], {WithBound[Inner], Inner}),
        (Derived, {Derived, Inner, Other}),
        (Total, {Inner, Other}),
        (Holder, {Holder, Inner, Other}),
        (Renamed, {Inner}),
        (Alias, {Inner, Other}),
        (list[Annotated[Inner | None, Field(description="d")]], {Inner}),
        (Literal[Word.YES, 3], {Word}),
        (str, set[Any]()),
        (Any, set[Any]()),
        (None, set[Any]()),
    ],
    ids=lambda value: "" if isinstance(value, set) else None,
)
def test_every_class_that_an_annotation_reaches_is_found(schema: Any, reached: set[Any]) -> None:
    assert set(reachable_types([schema])) == reached


def test_extras_and_private_attributes_are_part_of_a_model() -> None:
    model = Derived.model_validate({"more": Inner(x=5)})
    same(again(model, serializer_for(Derived)), model)


def test_a_cached_property_is_computed_again() -> None:
    class Text(BaseModel):
        words: str

        @cached_property
        def live(self) -> Live:
            return Live()

    text = Text(words="a b")
    assert text.live is text.live
    back = again(text, serializer_for(Text))
    assert back.words == "a b"
    assert back.live is not text.live


def test_plain_data_needs_no_names() -> None:
    plain = {"a": [1, "b", None, {"c": (1.5, b"x")}]}
    same(again(plain, serializer_for()), plain)
    assert again(ip_address("::1"), serializer_for()) == ip_address("::1")
