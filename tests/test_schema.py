"""Config sections: building, ranges, types, unknown fields."""

import copy
import dataclasses

import pytest

from uda_jax.errors import UserError
from uda_jax.schema import Named, config_field, from_mapping, to_dict


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = config_field(0.5, "A share.", low=0.0, high=1.0)
    kind: str = config_field("a", "A choice.", choices=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = config_field(1, "A count.", low=1)
    size: tuple[int, int] | None = config_field(None, "A pair.", low=1)
    flag: bool = config_field(False, "A switch.")
    inner: Inner = config_field(Inner(), "Nested.")
    parts: dict[str, Inner] | None = config_field(None, "Named sections.")

    def check(self, path):
        if self.flag and self.count > 3:
            raise UserError(f"{path}.count: expected at most 3 with flag, got {self.count}")


def test_builds_nested_sections_and_casts_integers_to_floats():
    section = from_mapping(Outer, {"count": 2, "size": [3, 4], "inner": {"rate": 1}, "parts": {"x": {"kind": "b"}}})
    assert section == Outer(2, (3, 4), False, Inner(1.0), {"x": Inner(kind="b")})
    assert isinstance(section.inner.rate, float)
    assert from_mapping(Outer, to_dict(section)) == section


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 2}, "config.cuont: unknown field; did you mean 'count'?"),
        ({"count": 0}, "config.count: expected an integer >= 1, got 0"),
        ({"count": 1.5}, "config.count: expected an integer, got 1.5"),
        ({"count": True}, "config.count: expected an integer, got True"),
        ({"count": None}, "config.count: expected an integer, got None"),
        ({"size": (1, 2, 3)}, "config.size: expected 2 values, got 3: (1, 2, 3)"),
        ({"size": (1, 0)}, "config.size[1]: expected an integer >= 1, got 0"),
        ({"size": "12"}, "config.size: expected a list of values, got '12'"),
        ({"inner": {"rate": float("nan")}}, "config.inner.rate: expected a number >= 0.0, got nan"),
        ({"inner": {"rate": 1.5}}, "config.inner.rate: expected a number <= 1.0, got 1.5"),
        ({"inner": {"kind": "c"}}, "config.inner.kind: expected one of 'a', 'b', got 'c'"),
        ({"inner": 3}, "config.inner: expected a section with fields ['kind', 'rate'], got 3"),
        ({"parts": {"x": {"rat": 1}}}, "config.parts.x.rat: unknown field; did you mean 'rate'?"),
        ({"flag": True, "count": 4}, "config.count: expected at most 3 with flag, got 4"),
    ],
)
def test_mistakes_are_named_in_one_line(values, message):
    with pytest.raises(UserError) as caught:
        from_mapping(Outer, values)
    assert str(caught.value) == message


@dataclasses.dataclass(frozen=True)
class Camera:
    split: str = config_field("val", "Name of the split.")
    options: dict | None = config_field(None, "Options.")


@dataclasses.dataclass(frozen=True)
class OneOrSeveral:
    cameras: Camera | dict[str, Camera] | None = config_field(Camera(), "One camera, or several by name.")


def test_a_section_or_a_mapping_of_sections():
    several = {"left": {"split": "test"}, "right": Camera(split="dev")}
    made = from_mapping(OneOrSeveral, {"cameras": several})
    assert made.cameras == {"left": Camera("test"), "right": Camera("dev")}
    assert from_mapping(OneOrSeveral, to_dict(made)) == made
    assert from_mapping(OneOrSeveral, {"cameras": None}).cameras is None
    # A section may hold mappings itself.
    for one in ({"split": "test"}, {"options": {"limit": 2}}, {"split": "test", "options": {"limit": 2}}, {}):
        assert from_mapping(OneOrSeveral, {"cameras": one}).cameras == Camera(**one)
    with pytest.raises(UserError, match="config.cameras.splitt: unknown field; did you mean 'split'"):
        from_mapping(OneOrSeveral, {"cameras": {"splitt": "test"}})
    with pytest.raises(UserError, match="config.cameras.left.splitt: unknown field; did you mean 'split'"):
        from_mapping(OneOrSeveral, {"cameras": {"left": {"splitt": "test"}}})


@dataclasses.dataclass(frozen=True)
class Square:
    side: int = config_field(3, "A length.", low=1)
    unit: str = config_field("m", "A unit.", decided=True)


@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float = config_field(1.0, "A length.", low=0.0)
    side: int = config_field(7, "Which side.")


@dataclasses.dataclass(frozen=True)
class Shape(Named):
    name: str = config_field("square", "Which.", choices=("square", "circle", "tile"))
    colour: str = config_field("red", "A colour.")
    label: str | None = config_field(None, "A text.")

    @classmethod
    def known_names(cls):
        return ("square", "circle", "tile")

    @classmethod
    def own_fields(cls, name):
        return (Circle, {}) if name == "circle" else (Square, {"side": 9, "colour": "grey"} if name == "tile" else {})

    def check(self, path):
        if self.colour == "none":
            raise UserError(f"{path}.colour: expected a colour, got 'none'")


def test_the_name_decides_fields_and_defaults():
    assert to_dict(Shape()) == {"name": "square", "colour": "red", "label": None, "side": 3}
    assert to_dict(Shape(name="tile")) == {"name": "tile", "colour": "grey", "label": None, "side": 9}
    assert to_dict(Shape("circle", "blue", radius=2.0)) == {
        "name": "circle",
        "colour": "blue",
        "label": None,
        "radius": 2.0,
        "side": 7,
    }
    assert Shape.variant("circle")(radius=2.0) == Shape(name="circle", radius=2.0)
    assert hash(Shape(side=4)) == hash(copy.deepcopy(Shape(side=4))) and Shape(side=4) != Shape()
    assert Shape(name="tile", side=None, colour=None) == Shape(name="tile")
    assert Shape.__doc__ == Shape().__doc__ and type(Shape()).__name__ == "Shape"


def test_replace_keeps_what_the_new_name_has():
    old = Shape(side=4, colour="blue", label="x")
    assert dataclasses.replace(old, side=5) == Shape(side=5, colour="blue", label="x")
    assert dataclasses.replace(old, name="tile") == Shape(name="tile", side=4, colour="blue", label="x")
    assert dataclasses.replace(Shape(), name="tile") == Shape(name="tile")
    assert dataclasses.replace(Shape(name="circle", radius=5.0), name="tile") == Shape(name="tile")
    with pytest.raises(UserError, match="^Shape.radios: unknown field of 'circle'; did you mean 'radius'"):
        dataclasses.replace(old, name="circle", radios=1.0)


@dataclasses.dataclass(frozen=True)
class Drawing:
    shape: Shape = config_field(Shape(name="tile", side=2), "A section.")
    other: Shape | None = config_field(None, "Another.")


def test_mappings_of_named_sections():
    assert from_mapping(Shape, {"side": 4}) == Shape(side=4)
    assert from_mapping(Shape, {"name": "circle", "radius": 2}) == Shape(name="circle", radius=2.0)
    assert from_mapping(Shape.variant("circle"), {"radius": 2}) == Shape(name="circle", radius=2.0)
    assert from_mapping(Drawing, {"shape": {"colour": "blue"}}).shape == Shape(name="tile", side=2, colour="blue")
    assert from_mapping(Drawing, {"shape": {"side": None}}).shape == Shape(name="tile", side=9)
    assert from_mapping(Drawing, {"shape": {"name": "square"}}).shape == Shape()
    assert from_mapping(Drawing, {"other": {"side": 8}}).other == Shape(side=8)
    assert from_mapping(Drawing, {"shape": {"name": "circle", "unit": None}}).shape == Shape(name="circle")
    assert from_mapping(Drawing, to_dict(Drawing(other=Shape(name="circle")))).other == Shape(name="circle")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "cirle"}, "s.name: unknown name 'cirle'; did you mean 'circle'?"),
        ({"radius": 1.0}, "s.radius: unknown field of 'square'; known: colour, label, name, side"),
        ({"unit": "km"}, "s.unit: unknown field of 'square'; known: colour, label, name, side"),
        ({"name": "circle", "radius": -1.0}, "s.radius: expected a number >= 0.0, got -1.0"),
        ({"side": 0}, "s.side: expected an integer >= 1, got 0"),
        ({"colour": "none"}, "s.colour: expected a colour, got 'none'"),
    ],
)
def test_mistakes_in_named_sections(values, message):
    with pytest.raises(UserError) as caught:
        from_mapping(Shape, values, "s")
    assert str(caught.value) == message
